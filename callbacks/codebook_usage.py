"""Watch how the codebook is used over the validation set, and how long its tokens live in training."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed

from callbacks.usage_watcher import UsageWatcher
from callbacks.writers import curve_step, writers
from skeleton_llm.losses import js_divergence, zipf_target
from skeleton_llm.metrics import TokenLifetimes, usage_report
from skeleton_llm.plotting import plot_rank_frequency, plot_usage


class CodebookUsageMonitor(UsageWatcher):
    """After each validation: rank-frequency curve against the Zipf target, usage histogram, dead tokens, lifetimes.

    Usage is that of the validation set, from ``indices`` and ``mask`` [B, L] of the validation step's output.
    Lifetimes are those of the training batches since the codebook stands, from the same keys of the training step's.

    Args:
        patience: training steps without use after which a token no longer counts as alive.
    """

    def __init__(self, patience: int = 200) -> None:
        if patience < 1:
            raise ValueError(f"patience is a number of steps, at least 1, got {patience}")
        self.patience = patience

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        num_codes: int = pl_module.num_codes
        self.target: Tensor = getattr(pl_module, "zipf_target", zipf_target(num_codes)).cpu()
        if stage == "fit":
            self.lifetimes = TokenLifetimes(num_codes, self.patience)

    def state_dict(self) -> dict[str, Any]:
        """All ranks', together: each has its own from one validation to the next."""
        lifetimes = getattr(self, "lifetimes", None)
        return {} if lifetimes is None else {name: _gathered(part) for name, part in lifetimes.state_dict().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict and hasattr(self, "lifetimes"):
            self.lifetimes.load_state_dict({name: _own(parts) for name, parts in state_dict.items()})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.lifetimes.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.vqvae.quantizer.ready:
            self.lifetimes.update(outputs["indices"], outputs["mask"], trainer.global_step)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        counts, step, at = self.usage.compute().cpu(), trainer.global_step, curve_step(trainer)
        lived = trainer.state.fn == "fit" and not trainer.sanity_checking and pl_module.vqvae.quantizer.ready
        if lived:
            self.lifetimes.agree(step)
        for writer in writers(trainer):
            if counts.sum() > 0 and pl_module.vqvae.quantizer.ready:
                self._write_usage(writer, counts, at)
            if lived:
                writer.add_histogram("codebook/token_idle_steps", self.lifetimes.idle(step), at)
                lifetimes = self.lifetimes.lifetimes(step)
                writer.add_scalar("codebook/tokens_alive", len(lifetimes), at)
                if len(lifetimes):
                    writer.add_histogram("codebook/token_lifetime_steps", lifetimes, at)

    def _write_usage(self, writer: Any, counts: Tensor, step: int) -> None:
        report = usage_report(counts)
        share = (counts / counts.sum()).float().sort(descending=True).values
        divergence = float(js_divergence(share, self.target))
        figure = plot_rank_frequency(counts.numpy(), self.target.numpy(), report.exponent, divergence)
        writer.add_figure("codebook/rank_frequency", figure, step)
        writer.add_figure("codebook/usage", plot_usage(counts.numpy()), step)
        writer.add_histogram("codebook/times_used", counts, step)
        writer.add_scalar("codebook/dead_tokens", report.dead, step)
        writer.add_scalar("codebook/zipf_exponent", report.exponent, step)
        writer.add_scalar("codebook/js_to_zipf", divergence, step)


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _gathered(part: Tensor) -> Tensor:
    """[R, N] from each rank's [N], which stays so where there is one."""
    if _ranks() == 1:
        return part.cpu()
    parts = [torch.empty_like(part) for _ in range(_ranks())]
    distributed.all_gather(parts, part)
    return torch.stack(parts).cpu()


def _own(parts: Tensor) -> Tensor:
    """This rank's; where others saved than there are now, the first one's."""
    if parts.ndim == 1:
        return parts
    return parts[distributed.get_rank() if _ranks() == len(parts) else 0]
