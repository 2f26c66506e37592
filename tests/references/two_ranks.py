"""Train stage 1 for some steps in one process, then on two gloo ranks: two_ranks.py DATA OUT CASE...

Two processes run this script, told apart by LOCAL_RANK; rank 0 makes the runs of one process first (but of 50 steps).
A run writes OUT/CASE_RANKS.pt, and its watchers' events into OUT/CASE_RANKS.
"""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

import callbacks
from datamodules import SkeletonDataModule
from lightning_modules import LitVQVAE
from skeleton_llm.networks import VQVAEConfig
from skeleton_llm.skeletons import Preprocess

# what a case changes, of the network and of the module; more steps than one let discrete flips grow from rounding
CASES = {
    "plain": (1, {}, {}),
    "running": (1, {"geometry": "euclidean"}, {"zipf_momentum": 0.9, "context_scale": "sum"}),
    "ragged": (1, {"persons": "sentences"}, {"denoise": True}),
    "fifty_ragged": (50, {"persons": "sentences"}, {"revive_every": 10, "revive_below": 50.0}),
    "fifty_ema": (50, {"noise": True, "codebook": "ema"}, {"revive_every": 10, "quantize_after": 5}),
}
# in runs of one step these write events beside OUT
WATCHERS = ("CodebookUsageMonitor", "CollapseAlarm", "CodeMeaning", "CodebookMap", "TokenSheets", "Reconstructions")


class Watched(LitVQVAE):
    """Keeps the first step's gradients and loss."""

    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        self.first_loss = self.all_gather(out["loss"].detach()).mean()
        return out

    def on_before_optimizer_step(self, optimizer):
        before = self.vqvae.quantizer.direction.detach().clone()
        super().on_before_optimizer_step(optimizer)
        self.revived = getattr(self, "revived", 0) + int((self.vqvae.quantizer.direction != before).any(-1).sum())
        if self.global_step == 0:
            self.gradients = {n: p.grad.clone() for n, p in self.vqvae.named_parameters() if p.grad is not None}


class Keep(L.Callback):
    """Writes what rank 0 knows, and every rank's codebook."""

    def __init__(self, out):
        self.out = out

    def on_train_end(self, trainer, module):
        codebooks = module.all_gather(module.vqvae.quantizer.codebook().detach()).view(trainer.world_size, -1)
        names = [name for name in trainer.callback_metrics if name.startswith("val/")]
        metrics = {name: float(trainer.callback_metrics[name]) for name in names}
        if trainer.is_global_zero:
            kept = {
                "loss": module.first_loss,
                "gradients": module.gradients,
                "codebooks": codebooks,
                "revived": module.revived,
            }
            torch.save({**kept, "metrics": json.dumps(metrics)}, self.out)


def run(data: str, out: Path, ranks: int, case: str) -> None:
    """One run; the global batch is 16 clips whatever the number of ranks."""
    L.seed_everything(0)
    steps, network, options = CASES[case]
    out = out / f"{case}_{ranks}.pt"
    ragged = case.endswith("ragged")
    length = Preprocess(frames=32, length="whole" if ragged else "resize")
    module = SkeletonDataModule(data, "synthetic_xsub", preprocess=length, batch_size=16 // ranks)
    if ragged:
        module.rows["val"] = module.rows["val"][:1]  # nothing is left for the second rank
    network = VQVAEConfig(**{"width": 16, "depth": 1, "num_codes": 32, "noise": False, **network})
    model = Watched("ntu25", 2, network=network, sample_clips=64, **options)
    watchers = [getattr(callbacks, name)() for name in WATCHERS] if steps == 1 else []
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true" if steps == 1 else "32-true",  # float32 rounds to 1e-4 of a gradient
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(out.with_suffix(""), name="", version="") if watchers else False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Keep(out), *watchers],
    )
    trainer.fit(model, datamodule=module)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, out, *cases = sys.argv[1:]
    for ranks in (1, 2):
        for case in cases:
            if ranks == 2 or (os.environ["LOCAL_RANK"] == "0" and CASES[case][0] == 1):
                run(data, Path(out), ranks, case)
    distributed.destroy_process_group()
