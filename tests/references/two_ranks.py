"""Train stage 1 for some steps on one or two gloo ranks and write what came of it: two_ranks.py DATA OUT RANKS."""

import json
import sys

import lightning as L
import torch

from datamodules import SkeletonDataModule
from lightning_modules import LitVQVAE
from skeleton_llm.networks import VQVAEConfig


class PlainSteps(LitVQVAE):
    """Plain gradient descent, so that weights tell the gradients (Adam's first steps tell only their signs)."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.vqvae.parameters(), lr=0.1)


def run(data: str, out: str, ranks: int) -> None:
    """One run; the global batch is 16 clips whatever the number of ranks."""
    L.seed_everything(0)
    torch.set_num_threads(1)
    module = SkeletonDataModule(data, "synthetic_xsub", batch_size=16 // ranks)
    network = VQVAEConfig(width=16, depth=1, num_codes=32, noise=False)
    model = PlainSteps("ntu25", 2, network=network, quantize_after=0, sample_clips=64)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_spawn" if ranks > 1 else "auto",
        max_steps=1,  # more steps would let discrete flips grow from rounding
        max_epochs=-1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=module)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    torch.save({"metrics": json.dumps(metrics), "weights": model.vqvae.state_dict()}, out)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
