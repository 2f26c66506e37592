"""Stage 1's loss as a sum written out for one batch, in float64, for one rank and usage without noise."""

import torch
from torch.nn import functional as F

from skeleton_llm.losses import WordMMD, context_loss, zipf_loss, zipf_target

DEFAULTS = {
    "embedding_weight": 1.0, "commitment_weight": 0.02, "zipf_weight": 0.2, "context_weight": 0.2, "mmd_weight": 0.2,
    "zipf_alpha": 1.0, "zipf_beta": 2.7, "zipf_momentum": 0.0, "context_scale": "token", "mmd_rows": None,
    "mmd_coordinates": "tangent", "denoise": False, "geometry": "hyperbolic", "curvature": 1.0,
    "token_norms": (0.97, 1.03), "temperature": 0.5, "scale": None,
}  # fmt: skip


def ball_distances(z, e, c):
    """Of every latent [M, D] to every token [N, D], by LLM-AR Eqs. 8 and 9."""
    root = c**0.5
    x, y = ((root * v.norm(dim=-1, keepdim=True)).tanh() / (root * v.norm(dim=-1, keepdim=True)) * v for v in (z, e))
    gap = (x[:, None] - y).square().sum(-1)
    room = (1 - c * x.square().sum(-1))[:, None] * (1 - c * y.square().sum(-1))
    return torch.acosh(1 + 2 * c * gap / room) / root


def losses(vqvae, batch, words, running, changed):
    """Each term and the sum, for a batch of clips; ``running`` is the usage's average of before, and is moved."""
    key = DEFAULTS | changed
    lengths = batch.get("lengths")
    rows = vqvae.rows(batch["joints"], batch["persons"], lengths)
    wanted = vqvae.rows(batch["clean"], batch["persons"], lengths).joints if key["denoise"] else rows.joints
    frames = torch.ones(rows.joints.shape[:2], dtype=torch.bool) if rows.mask is None else rows.mask
    there = vqvae.token_mask(frames)
    channels, target = (vqvae.features(joints, rows.persons) for joints in (rows.joints, wanted))

    raw = vqvae.latents(channels, rows.mask)
    latents = F.layer_norm(raw, raw.shape[-1:]) / raw.shape[-1] ** 0.5
    low, high = key["token_norms"]
    quantizer = vqvae.quantizer
    codebook = F.normalize(quantizer.direction, dim=-1) * (low + (high - low) * quantizer.norm_logit.sigmoid())[:, None]
    real = latents[there]
    hyperbolic = key["geometry"] == "hyperbolic"
    distances = ball_distances(real, codebook, key["curvature"]) if hyperbolic else torch.cdist(real, codebook)
    indices = distances.argmin(-1)
    chosen = codebook[indices]

    scale = 20 / quantizer.gap if key["scale"] is None else key["scale"]
    soft = (-scale * distances / key["temperature"]).softmax(-1)
    drawn = F.one_hot(indices, len(codebook)) + soft - soft.detach()
    counts = drawn.new_zeros(len(there), len(codebook)).index_add(0, there.nonzero()[:, 0], drawn)
    usage = counts.sum(0) / counts.sum().detach()
    running.copy_(key["zipf_momentum"] * running + (1 - key["zipf_momentum"]) * usage.detach())
    usage = running + usage - usage.detach()

    tokens = latents + torch.zeros_like(latents).masked_scatter(there[..., None], (chosen - real).detach())
    decoded = vqvae.decode_tokens(tokens, None if rows.mask is None else there)
    metres = vqvae.features.joints(decoded)[0]
    bodies = frames[..., None] & rows.persons[:, None]
    found = {
        "reconstruction": F.smooth_l1_loss(decoded[frames], target[frames]),
        "embedding": (chosen - real.detach()).square().sum(-1).mean(),
        "commitment": (real - chosen.detach()).square().sum(-1).mean(),
        "zipf": zipf_loss(usage, zipf_target(len(codebook), key["zipf_alpha"], key["zipf_beta"]).to(usage)),
        "context": context_loss(counts, quantizer.pairs, normalise=key["context_scale"] == "token"),
        "mmd": WordMMD(
            words, key["mmd_rows"], coordinates=key["mmd_coordinates"], curvature=key["curvature"]
        ).double()(codebook),
        "error_m": (metres - wanted)[bodies].norm(dim=-1).mean(),
    }  # fmt: skip
    weighted = ("embedding", "commitment", "zipf", "context", "mmd")
    total = found["reconstruction"] + sum(key[f"{name}_weight"] * found[name] for name in weighted)
    return found | {"loss": total}
