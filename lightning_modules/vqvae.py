"""Stage 1: the action tokenizer (LLM-AR section 3.2, Eqs. 1 to 12)."""

from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lightning_modules.optimization import Optimization
from skeleton_llm.language import LanguageModel
from skeleton_llm.losses import WordMMD, codebook_losses, context_loss, js_divergence, zipf_loss, zipf_target
from skeleton_llm.metrics import CodebookUsage, usage_report
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig

_LOGGED = (
    "reconstruction", "embedding", "commitment", "context", "mmd", "agreement", "error_m", "latent_norm",
    "token_norm",
)  # fmt: skip


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
        context_weight: tokens should come in correlated pairs.
        mmd_weight: codes should lie among words.
        mmd_rows: words drawn for each step's MMD; null takes all.
        denoise: reconstruct the clip without its noise, rotation and scale instead of the augmented one.
        quantize_after: steps in which the decoder sees latents, before the codebook is placed on them by k-means.
        sample_clips: training clips that statistics and the codebook's first place come from.
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
        context_weight: float = 0.2,
        mmd_weight: float = 0.2,
        mmd_rows: int | None = None,
        quantize_after: int = 0,
        sample_clips: int = 1024,
        *,
        denoise: bool = False,
    ) -> None:
        """Read the language model's words and build the network."""
        super().__init__()
        self.llm = llm or LanguageModel()
        self.optimization = optimization or Optimization()
        self.embedding_weight, self.commitment_weight = embedding_weight, commitment_weight
        self.zipf_weight, self.context_weight, self.mmd_weight = zipf_weight, context_weight, mmd_weight
        self.quantize_after, self.sample_clips, self.denoise = quantize_after, sample_clips, denoise
        config = network or VQVAEConfig()
        self.vqvae = VQVAE(config, layout=layout, num_persons=num_persons, dim=self.llm.width)
        self.word_mmd = WordMMD(self.llm.words(), mmd_rows) if mmd_weight else None
        self.zipf_target = nn.Buffer(zipf_target(config.num_codes), persistent=False)
        self.means = nn.ModuleDict({f"{split}_{name}": MeanMetric() for split in ("val", "test") for name in _LOGGED})
        self.usage = nn.ModuleDict(
            {
                f"{split}_{kind}": CodebookUsage(config.num_codes)
                for split in ("val", "test")
                for kind in ("nearest", "drawn")
            }
        )

    @property
    def num_codes(self) -> int:
        """Tokens of the codebook, for those who watch it."""
        return self.vqvae.config.num_codes

    def configure_optimizers(self) -> Any:
        return self.optimization.build(self.vqvae.parameters(), self.trainer.max_steps)

    def setup(self, stage: str) -> None:
        self.trainer.datamodule.clean = self.denoise

    def on_fit_start(self) -> None:
        if not self.vqvae.features.fitted:
            sample = self._sample()
            self.vqvae.features.fit(sample["joints"], sample["persons"])

    def _sample(self) -> dict[str, Tensor]:
        """The same unaugmented training clips on every rank."""
        sample = self.trainer.datamodule.training_sample(self.sample_clips)
        return {name: tensor.to(self.device) for name, tensor in sample.items()}

    def _place_codebook(self) -> None:
        """Tokens at the centres of the latents of training clips; every rank computes the same."""
        sample = self._sample()
        self.vqvae.eval()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            parts = zip(sample["joints"].split(64), sample["persons"].split(64), strict=True)
            features = [self.vqvae.latents(self.vqvae.features(*part)) for part in parts]
        self.vqvae.train()
        self.vqvae.quantizer.initialise(self.vqvae.quantizer.normalise(torch.cat(features)).flatten(0, 1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step >= self.quantize_after and not self.vqvae.quantizer.initialised:
            self._place_codebook()

    def _losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every loss and measure by name, and what watchers may see."""
        channels = self.vqvae.features(batch["joints"], batch["persons"])
        target = self.vqvae.features(batch["clean"], batch["persons"]) if self.denoise else channels
        quantize = bool(self.vqvae.quantizer.initialised)
        out = self.vqvae(channels, quantize=quantize)
        pull = codebook_losses(out.latents, out.tokens)
        # validation has its own sum over the whole split: ranks may have unequal numbers of its batches
        counts = (self._over_ranks(out.counts) if self.training else out.counts).sum(0)
        losses = {
            "reconstruction": F.smooth_l1_loss(out.reconstruction, target),
            "embedding": pull.embedding,
            "commitment": pull.commitment,
            "zipf": zipf_loss(counts, self.zipf_target),
            "context": context_loss(out.counts),
            "mmd": counts.new_zeros(()) if self.word_mmd is None else self.word_mmd(self.vqvae.quantizer.codebook()),
        }
        losses["loss"] = self._total(losses)
        with torch.no_grad():
            joints, _ = self.vqvae.features.joints(out.reconstruction)
            truth = batch["clean"] if self.denoise else batch["joints"]
            gap = (joints - truth).norm(dim=-1).mean((1, 3))  # [B, M]
            losses["error_m"] = gap[batch["persons"]].mean()
            losses["agreement"] = out.agreement
            losses["latent_norm"] = out.latents.norm(dim=-1).mean()
            losses["token_norm"] = self.vqvae.quantizer.codebook().norm(dim=-1).mean()
        seen = {"gap": out.gap, "counts": out.counts.detach().sum(0), "indices": out.indices}
        return losses, seen

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """Their weighted sum; before the codebook stands, reconstruction alone."""
        codebook = (
            self.embedding_weight * losses["embedding"]
            + self.commitment_weight * losses["commitment"]
            + self.zipf_weight * losses["zipf"]
            + self.context_weight * losses["context"]
            + self.mmd_weight * losses["mmd"]
        )
        return losses["reconstruction"] + float(self.vqvae.quantizer.initialised) * codebook

    def _over_ranks(self, counts: Tensor) -> Tensor:
        """Counts [B, N] of all ranks' clips, with gradient; DDP's mean then gives the whole batch's gradient."""
        if self.trainer.world_size == 1:
            return counts
        gathered: Any = self.all_gather(counts, sync_grads=True)
        return gathered.flatten(0, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        losses, seen = self._losses(batch)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name in ("loss", "error_m"))
        self.vqvae.quantizer.follow(cast(Tensor, self.all_gather(seen["gap"])).mean())
        return {"loss": losses["loss"], **seen}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        losses, seen = self._losses(batch)
        for name in _LOGGED:
            self.means[f"{split}_{name}"](losses[name], len(batch["labels"]))
        self.usage[f"{split}_nearest"].update(seen["indices"])
        self.usage[f"{split}_drawn"].add(seen["counts"])
        return seen

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, split: str) -> None:
        """Log each measure over the whole split and all ranks."""
        found: dict[str, Tensor] = {}
        for name in _LOGGED:
            metric = self.means[f"{split}_{name}"]
            found[name] = metric.compute()
            metric.reset()
        found["zipf"] = zipf_loss(self.usage[f"{split}_drawn"].compute().float(), self.zipf_target)
        self.usage[f"{split}_drawn"].reset()
        found["loss"] = self._total(found)
        self.log_dict({f"{split}/{name}": value for name, value in found.items()})
        counts = self.usage[f"{split}_nearest"].compute()
        self.usage[f"{split}_nearest"].reset()
        report = usage_report(counts)
        usage = counts.float() / counts.sum().clamp_min(1)
        self.log(f"{split}/js_to_zipf", js_divergence(usage.sort(descending=True).values, self.zipf_target))
        self.log(f"{split}/perplexity", report.perplexity, prog_bar=split == "val")
        self.log(f"{split}/tokens_used", float(report.used))
        self.log(f"{split}/dead_tokens", float(report.dead))

    def export(self, folder: Path) -> None:
        """Write the action tokenizer."""
        data: Any = self.trainer.datamodule
        kept = ("name", "layout", "layout_definition", "num_persons", "actors", "own", "class_names", "content_hash")
        info = {
            "dataset": {name: data.info[name] for name in kept if name in data.info},
            "protocol": data.protocol.name,
            "llm": {"name": self.llm.name, "width": self.llm.width, "fingerprint": self.llm.fingerprint()},
        }
        ActionTokenizer(self.vqvae, data.preprocess, info).save_pretrained(folder)
