"""Stage 1: the action tokenizer (LLM-AR section 3.2, Eqs. 1 to 12)."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lightning_modules.optimization import Optimization
from skeleton_llm.language import LanguageModel
from skeleton_llm.losses import WordMMD, codebook_losses, context_loss, js_divergence, zipf_loss, zipf_target
from skeleton_llm.metrics import CodebookUsage, usage_report
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.networks.quantizer import refuse_unplaced

_KINDS = ("frames", "bodies", "tokens", "sentences")  # what a mean is taken over
_MEANS = {
    "reconstruction": "frames", "error_m": "bodies", "embedding": "tokens", "commitment": "tokens",
    "agreement": "tokens", "latent_norm": "tokens", "context": "sentences",
}  # fmt: skip
_PLAIN = ("mmd", "token_norm")


class Pass(NamedTuple):
    """What one pass over a batch gives: sums by name, how many things each kind of sum is over, and what was seen."""

    sums: dict[str, Tensor]
    sizes: dict[str, Tensor]
    counts: Tensor  # [R, N], with gradient
    codebook: Tensor  # [N, D], with gradient
    gap: Tensor  # summed over tokens
    latents: Tensor  # [R, K, D]
    indices: Tensor  # [R, K]
    mask: Tensor  # [R, K]


class LitVQVAE(L.LightningModule):
    """Train the VQ-VAE; the loss is reconstruction (smooth L1) + embedding + the weighted rest (LLM-AR Eqs. 11, 12).

    Args:
        layout: skeleton layout, from the data.
        num_persons: persons a clip has channels for, from the data.
        llm: the language model whose width the codes take and whose words they shall lie among; only its embedding
            matrix is read.
        network: sizes and choices of the network.
        optimization: optimiser and schedule.
        embedding_weight: pull of latents on tokens.
        commitment_weight: pull of tokens on latents.
        zipf_weight: usage should follow Zipf's law.
        zipf_alpha: exponent of the law.
        zipf_beta: offset of the rank, 2.7 in Mandelbrot's form.
        zipf_momentum: share of a running average in the usage that is compared; 0 takes the batch (of all ranks) alone.
        context_weight: tokens should come in correlated pairs.
        context_scale: the context loss per ``token`` (0 to 1), or the paper's ``sum``, which grows with the sentence.
        mmd_weight: codes should lie among words.
        mmd_rows: words drawn for each step's MMD; null takes all.
        mmd_coordinates: compare codes and words in ``tangent`` space or as points of the ``ball``.
        denoise: reconstruct the clip without its noise, rotation and scale instead of the augmented one.
        quantize_after: steps in which the decoder sees latents, before the codebook is placed on them; null never
            places it, which leaves an autoencoder.
        initialisation: the codebook's first place: ``kmeans`` or a ``sample`` of latents, or ``random``.
        sample_clips: training clips that statistics and the codebook's first place come from.
        revive_every: steps after which tokens hardly used since are put onto latents; 0 never (it fights Zipf's tail).
        revive_below: the number of uses that keeps a token from it.
        compile: run the network through torch.compile; pays on GPUs with clips of one length.
    """

    def __init__(
        self,
        layout: str,
        num_persons: int,
        llm: LanguageModel | None = None,
        network: VQVAEConfig | None = None,
        optimization: Optimization | None = None,
        embedding_weight: float = 1.0,
        commitment_weight: float = 0.02,
        zipf_weight: float = 0.2,
        zipf_alpha: float = 1.0,
        zipf_beta: float = 2.7,
        zipf_momentum: float = 0.0,
        context_weight: float = 0.2,
        context_scale: Literal["token", "sum"] = "token",
        mmd_weight: float = 0.2,
        mmd_rows: int | None = None,
        mmd_coordinates: Literal["tangent", "ball"] = "tangent",
        quantize_after: int | None = 0,
        initialisation: Literal["kmeans", "sample", "random"] = "kmeans",
        sample_clips: int = 1024,
        revive_every: int = 0,
        revive_below: float = 1.0,
        *,
        denoise: bool = False,
        compile: bool = False,  # noqa: A002  (torch's own name for it)
    ) -> None:
        """Read the language model's words and build the network."""
        super().__init__()
        if not 0 <= zipf_momentum < 1:
            raise ValueError(f"model.zipf_momentum must be at least 0 and less than 1, got {zipf_momentum}")
        if revive_every < 0:
            raise ValueError(f"model.revive_every is a number of steps (0 for never), got {revive_every}")
        self.llm = llm or LanguageModel()
        self.optimization = optimization or Optimization()
        self.embedding_weight, self.commitment_weight = embedding_weight, commitment_weight
        self.zipf_weight, self.context_weight, self.mmd_weight = zipf_weight, context_weight, mmd_weight
        self.zipf_momentum, self.context_per_token = zipf_momentum, context_scale == "token"
        self.quantize_after, self.sample_clips, self.denoise = quantize_after, sample_clips, denoise
        self.initialisation, self.revive_every, self.revive_below = initialisation, revive_every, revive_below
        config = network or VQVAEConfig()
        self.vqvae = VQVAE(config, layout=layout, num_persons=num_persons, dim=self.llm.width)
        self.word_mmd: WordMMD | None = None
        if mmd_weight:
            self.word_mmd = WordMMD(self.llm.words(), mmd_rows, coordinates=mmd_coordinates, curvature=config.curvature)
        self.zipf_target = nn.Buffer(zipf_target(config.num_codes, zipf_alpha, zipf_beta), persistent=False)
        self.running_usage = nn.Buffer(self.zipf_target.clone()) if zipf_momentum else None
        names = (*_MEANS, *_PLAIN)
        self.means = nn.ModuleDict({f"{split}_{name}": MeanMetric() for split in ("val", "test") for name in names})
        self.usage = nn.ModuleDict(
            {
                f"{split}_{kind}": CodebookUsage(config.num_codes)
                for split in ("val", "test")
                for kind in ("nearest", "drawn")
            }
        )
        self._pass = torch.compile(self._one_pass, fullgraph=True) if compile else self._one_pass
        self._seen: dict[str, Tensor] = {}

    @property
    def num_codes(self) -> int:
        """Tokens of the codebook, for those who watch it."""
        return self.vqvae.config.num_codes

    def configure_optimizers(self) -> Any:
        return self.optimization.build(self.vqvae.parameters(), self.trainer.max_steps)

    def setup(self, stage: str) -> None:
        self.trainer.datamodule.clean = self.denoise

    def on_train_start(self) -> None:
        self.optimization.rule(self.trainer)

    def on_fit_start(self) -> None:
        if not self.vqvae.quantizer.ready:
            refuse_unplaced(self.quantize_after, self.trainer.max_steps)
        if not self.vqvae.features.fitted:
            for part in self._sample(self.sample_clips):
                self.vqvae.features.fit(*self.vqvae.rows(*part))

    def _sample(self, batch_size: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """The same unaugmented training clips on every rank, in batches."""
        sample = {
            name: tensor.to(self.device).split(batch_size)
            for name, tensor in self.trainer.datamodule.training_sample(self.sample_clips).items()
        }
        lengths = sample.get("lengths", [None] * len(sample["joints"]))
        return list(zip(sample["joints"], sample["persons"], lengths, strict=True))

    def _place_codebook(self) -> None:
        """Tokens among the latents of training clips; what rank 0 computes stands for all."""
        self.vqvae.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            found = [self.vqvae.normalised_latents(*part) for part in self._sample(64)]
        self.vqvae.train()
        quantizer = self.vqvae.quantizer
        quantizer.initialise(torch.cat([latents[mask] for latents, mask in found]), self.initialisation)
        if self.trainer.world_size > 1:
            for tensor in (quantizer.direction.data, quantizer.norm_logit.data, quantizer.gap):
                torch.distributed.broadcast(tensor, 0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.quantize_after is None or self.vqvae.quantizer.ready:
            return
        if self.global_step >= self.quantize_after:
            self._place_codebook()

    def _one_pass(
        self, joints: Tensor, persons: Tensor, clean: Tensor | None, mask: Tensor | None, *, quantize: bool
    ) -> Pass:
        """The network and every sum that needs no other rank."""
        vqvae = self.vqvae
        channels = vqvae.features(joints, persons)
        target = channels if clean is None else vqvae.features(clean, persons)
        out = vqvae(channels, mask, quantize=quantize)
        frames = channels.new_ones(channels.shape[:2]) if mask is None else mask.to(channels.dtype)
        token_mask = None if mask is None else vqvae.token_mask(mask)
        there = torch.ones_like(out.agreement) if token_mask is None else token_mask
        pull = codebook_losses(out.latents, out.codebook, out.indices, token_mask, 1.0)
        error = F.smooth_l1_loss(out.reconstruction, target, reduction="none").mean(-1)
        with torch.no_grad():
            metres, _ = vqvae.features.joints(out.reconstruction)
            apart = (metres - (joints if clean is None else clean)).norm(dim=-1).mean(-1)  # [R, T, P]
            bodies = frames[..., None] * persons[:, None]
            norms = out.latents.norm(dim=-1)
        sums = {
            "reconstruction": (error * frames).sum(),
            "error_m": (apart * bodies).sum(),
            "embedding": pull.embedding,
            "commitment": pull.commitment,
            "agreement": (out.agreement & there).sum(),
            "latent_norm": (norms * there).sum(),
            "context": context_loss(out.counts, vqvae.quantizer.pairs, 1.0, normalise=self.context_per_token),
        }
        sentences = there.any(-1)
        sizes = {"frames": frames.sum(), "bodies": bodies.sum(), "tokens": there.sum(), "sentences": sentences.sum()}
        gap = (out.gap * there).sum()
        return Pass(sums, sizes, out.counts, out.codebook, gap, out.latents.detach(), out.indices, there)

    def _run(self, batch: dict[str, Tensor]) -> Pass:
        given = batch["persons"], batch.get("lengths")
        rows = self.vqvae.rows(batch["joints"], *given)
        clean = self.vqvae.rows(batch["clean"], *given).joints if self.denoise else None
        return self._pass(rows.joints, rows.persons, clean, rows.mask, quantize=self.vqvae.quantizer.ready)

    def _plain(self, codebook: Tensor) -> dict[str, Tensor]:
        """What depends on no batch."""
        mmd = codebook.new_zeros(()) if self.word_mmd is None else self.word_mmd(codebook)
        return {"mmd": mmd, "token_norm": codebook.detach().norm(dim=-1).mean()}

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """Their weighted sum; before the codebook stands, reconstruction alone."""
        codebook = (
            self.embedding_weight * losses["embedding"]
            + self.commitment_weight * losses["commitment"]
            + self.zipf_weight * losses["zipf"]
            + self.context_weight * losses["context"]
            + self.mmd_weight * losses["mmd"]
        )
        return losses["reconstruction"] + float(self.vqvae.quantizer.ready) * codebook

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """The sum over all ranks, with gradient; DDP's mean then gives the whole batch's gradient."""
        if self.trainer.world_size == 1:
            return sums
        return cast(Tensor, self.all_gather(sums, sync_grads=True)).sum(0)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Means are over all ranks' clips: each rank divides its sums by its share of what there is in all."""
        found = self._run(batch)
        sizes = torch.stack([found.sizes[kind] for kind in _KINDS]).to(found.counts.dtype)
        sums = torch.stack([found.sums[name].detach() for name in _MEANS]).to(sizes)
        whole = self._over_ranks(torch.cat([found.counts.sum(0), sums, sizes, found.gap[None]]))
        counts, sums, sizes, gap = whole.split([self.num_codes, len(sums), len(sizes), 1])
        of = dict(zip(_KINDS, sizes.detach().clamp_min(1e-6), strict=True))
        world = self.trainer.world_size
        losses = {name: found.sums[name] / of[kind] * world for name, kind in _MEANS.items()} | self._plain(
            found.codebook
        )
        losses["zipf"] = zipf_loss(self._usage(counts), self.zipf_target)
        losses["loss"] = self._total(losses)
        shown = {name: total / of[_MEANS[name]] for name, total in zip(_MEANS, sums, strict=True)}
        shown = {name: value.detach() for name, value in (losses | shown).items()}
        for name, value in (shown | {"loss": self._total(shown)}).items():
            self.log(f"train/{name}", value)
        seen = self._watched(found, len(batch["labels"]))
        self._seen = {"counts": counts.detach(), "gap": gap[0].detach() / of["tokens"], **seen}
        return {"loss": losses["loss"], **seen}

    def _usage(self, counts: Tensor) -> Tensor:
        """The usage that is compared with the target: the batch's, or with it mixed into the running average."""
        if self.running_usage is None:
            return counts
        usage = counts / counts.sum().clamp_min(1e-6)
        with torch.no_grad():
            self.running_usage.lerp_(torch.where(usage.isfinite(), usage, self.running_usage), 1 - self.zipf_momentum)
        return self.running_usage.clone() + (usage - usage.detach())

    @staticmethod
    def _watched(found: Pass, clips: int) -> dict[str, Tensor]:
        """What callbacks may see, all detached, a row for each clip: indices, mask [B, L], latents [B, L, D]."""
        length = found.indices.numel() // max(clips, 1)
        seen = {"indices": found.indices, "mask": found.mask, "latents": found.latents}
        return {name: tensor.reshape(clips, length, *tensor.shape[2:]) for name, tensor in seen.items()}

    @torch.no_grad()
    def on_after_backward(self) -> None:
        """The codebook's own motions, after its gradient is known: a checkpoint then holds them."""
        seen, quantizer = self._seen, self.vqvae.quantizer
        if not quantizer.ready or not seen:
            return
        quantizer.follow(seen["gap"])
        latents, weight = seen["latents"].flatten(0, 1), seen["mask"].flatten()
        if quantizer.learning == "ema":
            index = seen["indices"].flatten()
            both = torch.cat([latents, torch.ones_like(latents[:, :1])], -1) * weight[:, None]
            sums = self._over_ranks(latents.new_zeros(self.num_codes, both.shape[-1]).index_add_(0, index, both))
            quantizer.average(sums[:, :-1], sums[:, -1])
        if self.revive_every:
            quantizer.recent += seen["counts"]

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Revival: once an optimiser step, however many batches it accumulates."""
        seen, quantizer = self._seen, self.vqvae.quantizer
        if seen and quantizer.ready and self.revive_every and (self.global_step + 1) % self.revive_every == 0:
            latents, weight = seen["latents"].flatten(0, 1), seen["mask"].flatten()
            # each rank gives every world-th row, so that all put the same tokens onto the same latents
            rows = torch.arange(self.trainer.global_rank, self.num_codes, self.trainer.world_size, device=self.device)
            order = (torch.rand(len(weight), device=self.device) + weight).argsort(descending=True)[: len(rows)]
            some = latents.new_zeros(self.num_codes, latents.shape[-1])
            some[rows[: len(order)]] = latents[order] * weight[order, None]  # padding stays 0, which revives nobody
            quantizer.revive(self._over_ranks(some), self.revive_below)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        found = self._run(batch)
        for name, kind in _MEANS.items():
            size = found.sizes[kind]
            self.means[f"{split}_{name}"].update(found.sums[name] / size.clamp_min(1), size)
        self.usage[f"{split}_nearest"].update(found.indices[found.mask])
        self.usage[f"{split}_drawn"].add(found.counts.sum(0))
        return self._watched(found, len(batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, split: str) -> None:
        """Log each measure over the whole split and all ranks."""
        found: dict[str, Tensor] = {}
        for name, value in self._plain(self.vqvae.quantizer.codebook()).items():
            self.means[f"{split}_{name}"].update(value)
        for name in (*_MEANS, *_PLAIN):
            metric = self.means[f"{split}_{name}"]
            found[name] = metric.compute()
            metric.reset()
        found["zipf"] = zipf_loss(self.usage[f"{split}_drawn"].compute().float(), self.zipf_target)
        self.usage[f"{split}_drawn"].reset()
        found["loss"] = self._total(found)
        # what tokens tell; none are there before the codebook is placed, and no such moment is the best of a run
        told = self.vqvae.quantizer.ready
        found["token_error_m"] = found["error_m"] if told else torch.full_like(found["error_m"], torch.nan)
        self.log_dict({f"{split}/{name}": value for name, value in found.items()})
        counts = self.usage[f"{split}_nearest"].compute()
        self.usage[f"{split}_nearest"].reset()
        report = usage_report(counts)
        usage = counts.float() / counts.sum().clamp_min(1)
        self.log(f"{split}/js_to_zipf", js_divergence(usage.sort(descending=True).values, self.zipf_target))
        self.log(f"{split}/perplexity", report.perplexity, prog_bar=split == "val")
        self.log(f"{split}/tokens_used", float(report.used))
        self.log(f"{split}/dead_tokens", float(report.dead))

    def identity(self) -> dict[str, str]:
        """What a run cannot go on without: fingerprints by name."""
        return {"llm": self.llm.fingerprint()}

    @rank_zero_only
    def export(self, folder: Path) -> None:
        """Write the action tokenizer."""
        data: Any = self.trainer.datamodule
        kept = ("name", "layout", "layout_definition", "num_persons", "actors", "own", "class_names", "content_hash")
        info = {
            "dataset": {name: data.info[name] for name in kept if name in data.info},
            "protocol": data.protocol.name,
            "unseen": [data.class_names[label] for label in data.unseen],
            "llm": {"name": self.llm.name, "width": self.llm.width, "fingerprint": self.llm.fingerprint()},
        }
        ActionTokenizer(self.vqvae, data.preprocess, info).save_pretrained(folder)
