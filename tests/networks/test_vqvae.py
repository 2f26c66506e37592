import inspect

import pytest
import torch
from torch.nn import functional as F

from skeleton_llm.losses import zipf_loss, zipf_target
from skeleton_llm.networks import VQVAE, Quantizer, TemporalClassifier, VQVAEConfig


def build(**options) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(VQVAEConfig(width=32, depth=2, num_codes=32, **options), layout="kinect20", num_persons=1, dim=24)


@pytest.mark.parametrize(("downsamples", "per_step"), [(2, 1), (3, 1), (2, 4), (0, 1)])
def test_length_of_the_sentence(downsamples, per_step):
    vqvae = build(downsamples=downsamples, tokens_per_step=per_step)
    out = vqvae(torch.randn(2, 64, vqvae.features.num_channels))
    assert out.indices.shape == (2, 64 // 2**downsamples * per_step)
    assert out.reconstruction.shape == (2, 64, vqvae.features.num_channels)


def test_paper_sizes_give_t2m_gpts_parameter_count():
    # T2M-GPT's convolutional networks at NTU's 150 joint channels and LLaMA-13B's width: 16.5 M + 16.8 M
    vqvae = VQVAE(VQVAEConfig(streams=("joint",)), layout="ntu25", num_persons=2, dim=5120)
    assert sum(p.numel() for p in vqvae.encoder.parameters()) / 1e6 == pytest.approx(16.5, abs=0.1)
    assert sum(p.numel() for p in vqvae.decoder.parameters()) / 1e6 == pytest.approx(16.8, abs=0.1)


def test_the_zipf_losss_gradient_reaches_the_encoder():
    vqvae = build()
    out = vqvae(torch.randn(4, 64, vqvae.features.num_channels))
    zipf_loss(out.counts.sum(0), zipf_target(32)).backward()
    assert vqvae.encoder.layers[0].weight.grad.abs().sum() > 0


def test_reconstruction_trains_the_encoder_through_the_tokens():
    vqvae = build()
    x = torch.randn(4, 64, vqvae.features.num_channels)
    F.smooth_l1_loss(vqvae(x).reconstruction, x).backward()
    assert vqvae.encoder.layers[0].weight.grad.abs().sum() > 0
    assert vqvae.quantizer.direction.grad is None  # tokens move by the embedding loss alone


def test_clips_that_do_not_part_into_steps_are_refused():
    vqvae = build()
    with pytest.raises(ValueError, match="clips of 30 frames do not part into steps of 4"):
        vqvae(torch.randn(1, 30, vqvae.features.num_channels))


def test_every_choice_of_the_codebook_reaches_it():
    choices = {
        "geometry": "euclidean", "curvature": 0.7, "token_norms": (0.4, 1.6), "latents": "clip", "latent_norm": 1.3,
        "sharpness": 7.0, "scale": 2.0, "temperature": 0.9, "noise": False, "codebook": "ema", "ema_decay": 0.5,
    }  # fmt: skip
    assert {"num_codes", "dim", *choices} == set(inspect.signature(Quantizer).parameters)
    quantizer, plain = build(**choices).quantizer, build().quantizer
    for name, value in choices.items():
        kept = "learning" if name == "codebook" else name
        assert getattr(quantizer, kept) == value != getattr(plain, kept), name


def test_config_refuses_what_builds_nothing():
    with pytest.raises(ValueError, match="num_codes must be even"):
        VQVAEConfig(num_codes=7)
    with pytest.raises(ValueError, match=r"network\.width must be at least 1"):
        VQVAEConfig(width=0)


def test_classifier_learns_what_is_plain():
    torch.manual_seed(0)
    x = torch.randn(64, 16, 4)
    labels = (x.mean((1, 2)) > 0).long()
    network = TemporalClassifier(4, 2, width=16, depth=1, downsamples=1, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    assert (network(x).argmax(-1) == labels).float().mean() > 0.95
