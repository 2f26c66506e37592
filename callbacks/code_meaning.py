"""What tokens tell of a clip's class, and which of them come together."""

from typing import Any

import lightning as L

from callbacks.writers import curve_step, writers
from skeleton_llm.metrics import CodeClassCounts, PairCorrelation, entropy, mutual_information
from skeleton_llm.plotting import plot_class_heat_map


class CodeMeaning(L.Callback):
    """After each validation: information of a token on its clip's class, their heat map, correlation of token pairs.

    The pairs are those of the context loss; as many others of the same tokens, which nothing pulls together, stand
    beside them as a control. Reads ``indices`` and ``mask`` [B, L] of the validation step's output and the batch's
    ``labels`` [B].

    Args:
        num_tokens: the most used tokens that the heat map shows.
    """

    def __init__(self, num_tokens: int = 40) -> None:
        if not 1 <= num_tokens <= 500:
            raise ValueError(f"num_tokens must lie between 1 and 500, more fit on no picture; got {num_tokens}")
        self.num_tokens = num_tokens

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule
        self.names: list[str] = data.class_names
        pairs, num_codes = pl_module.vqvae.quantizer.pairs, pl_module.num_codes
        others = pairs.clone()
        others[:, 1] = pairs[:, 1].roll(1)
        self.table = CodeClassCounts(len(self.names), num_codes).to(pl_module.device)
        self.pairs = {
            "": PairCorrelation(pairs, num_codes).to(pl_module.device),
            "_control": PairCorrelation(others, num_codes).to(pl_module.device),
        }

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.table.update(outputs["indices"], outputs["mask"], batch["labels"])
        vqvae: Any = pl_module.vqvae
        sentences = len(outputs["indices"]) * (vqvae.num_persons if vqvae.apart else 1)  # as the context loss has them
        length = outputs["indices"].numel() // max(sentences, 1)
        for metric in self.pairs.values():
            metric.update(*(outputs[name].reshape(sentences, length) for name in ("indices", "mask")))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        table = self.table.compute().cpu()
        correlations = {kind: metric.compute().cpu() for kind, metric in self.pairs.items()}
        if not pl_module.vqvae.quantizer.ready:
            return
        for writer in writers(trainer):
            step = curve_step(trainer)
            for kind, found in correlations.items():
                if len(moving := found[found.isfinite()]):
                    writer.add_scalar(f"codebook/pair_correlation{kind}", moving.mean(), step)
                    writer.add_histogram(f"codebook/pair_correlation{kind}", moving, step)
            if table.sum() > 0:
                information, classes = mutual_information(table), entropy(table.sum(1))
                writer.add_scalar("codebook/class_information_nats", information, step)
                writer.add_scalar("codebook/class_information_share", information / max(classes, 1e-12), step)
                figure = plot_class_heat_map(table.numpy(), self.names, num_tokens=self.num_tokens)
                writer.add_figure("codebook/class_heat_map", figure, step)
