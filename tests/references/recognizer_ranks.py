"""Train recognisers on two gloo ranks, this being the one of LOCAL_RANK: recognizer_ranks.py DATA FOLDER."""

import json
import sys
from pathlib import Path

import lightning as L
import torch

from callbacks import ScoreFiles
from datamodules import SkeletonDataModule
from lightning_modules import LitSkeletonRecognizer, Optimization
from skeleton_llm.networks import ConvolutionConfig, CTRGCNConfig

NETWORKS = {"convolution": ConvolutionConfig(width=16, depth=1, dropout=0.0), "ctr_gcn": CTRGCNConfig(width=4)}


class Watched(LitSkeletonRecognizer):
    """Keeps the first step's gradients, and every rank's averages before and after they agree."""

    def on_before_optimizer_step(self, optimizer):
        if self.global_step == 0:
            self.gradients = {n: p.grad.clone() for n, p in self.network.named_parameters()}

    def _agree(self):
        self.before = self.spread()
        super()._agree()
        self.after = self.spread()

    def spread(self):
        """How far the ranks' weights and averages are apart."""
        state = [tensor.double().flatten() for tensor in self.network.state_dict().values()]
        everywhere = self.all_gather(torch.cat(state)).view(self.trainer.world_size, -1)
        return float((everywhere - everywhere[0]).abs().max())


class Keep(L.Callback):
    """Writes what rank 0 knows."""

    def __init__(self, out):
        self.out = out

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            kept = {"gradients": module.gradients, "state": module.state_dict(), "metrics": json.dumps(metrics)}
            torch.save({**kept, "before": module.before, "after": module.after}, self.out)


def run(data: str, out: Path, ranks: int, network: str) -> None:
    """One run; the global batch is 16 clips whatever the number of ranks."""
    L.seed_everything(0)
    torch.set_num_threads(1)
    module = SkeletonDataModule(data, "synthetic_xsub", batch_size=16 // ranks)
    module.preprocess.frames = 16
    module.rows["val"] = module.rows["val"][:21]  # one rank has more than the other
    streams = ["joint"] if network == "ctr_gcn" else None
    model = Watched(
        "ntu25",
        2,
        module.class_names,
        NETWORKS[network],
        streams=streams,
        optimization=Optimization(lr=1e-3, warmup_steps=0),
    )
    trainer = L.Trainer(
        default_root_dir=out.with_suffix(""),
        accelerator="cpu",
        precision="64-true",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=3,
        max_epochs=-1,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Keep(out), ScoreFiles()],
    )
    trainer.fit(model, datamodule=module)


if __name__ == "__main__":
    for network in NETWORKS:
        run(sys.argv[1], Path(sys.argv[2]) / f"{network}.pt", 2, network)
