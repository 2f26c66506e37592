"""Tune a language model in one process, then the same on two gloo ranks: tuning_ranks.py DATA TOKENIZER OUT CELL...

A cell is MODE:STRATEGY[:TURN]. Two processes run this script, told apart by LOCAL_RANK; rank 0 makes the runs of one
process first. Each run writes OUT/NAME.json (losses, metrics, how many weights are sharded), OUT/NAME.pt (the first
step's gradients, but of FSDP1, which flattens them), OUT/NAME_RANK.json (scores, how many numbers of the weights the
rank holds) and OUT/NAME (the recogniser). It validates in the middle of training too. Some cells are also stopped after
two steps, which leaves OUT/NAME.ckpt, and resumed. With the turn ``shards`` both checkpoints are evaluated by one
process and by two: OUT/NAME_read_by_RANKS_RANK.json.
"""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from callbacks import AtomicCheckpointIO, StepSeed
from datamodules import SkeletonDataModule
from lightning_modules import FSDP2, LitLLMRecognizer, Optimization
from skeleton_llm.language import Inputs, LanguageModel, Tuning
from skeleton_llm.networks import ActionTokenizer

CLIPS, STEPS, VALIDATED = 8, 4, 9  # of nine clips in batches of four one rank has two batches, the other one
LATE = {"form": "latents", "layer": 1}
TURNS = {
    "": {},
    "dora": {"tuning": {"dora": True}},
    "checkpointed": {"tuning": {"gradient_checkpointing": True}},
    "vocabulary": {"inputs": {"form": "vocabulary"}},
    "late": {"inputs": LATE},
    "late_checkpointed": {"inputs": LATE, "tuning": {"gradient_checkpointing": True}},
    "eight_bits": {"optimization": {"optimizer": "adamw_8bit"}},
    "bfloat16": {"llm": {"dtype": "bfloat16"}},
    "search": {"module": {"search": True}},
    "shards": {},
}
STOPPED = ("lora:fsdp1", "lora:fsdp2", "lora:fsdp2:shards", "full:fsdp2:shards")


class Seeded(LitLLMRecognizer):
    """Draws the same adapters in one process and in several (Lightning seeds the latter once more)."""

    def configure_model(self):
        torch.manual_seed(0)
        super().configure_model()


class Losses(L.Callback):
    """Mean over the ranks, a step each; gradients; what was sharded; this rank's scores of validation clips."""

    def __init__(self):
        self.losses, self.sharded, self.scores, self.validated = [], 0, {}, []
        self.held, self.gradients = {}, {}

    def on_train_start(self, trainer, module):
        weights = [*module.network.parameters()]
        mine = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
        self.held = {
            "here": sum(weight.numel() for weight in mine),
            "all": sum(weight.numel() for weight in weights),
            "whole": sum(not isinstance(weight, DTensor) for weight in weights),
        }

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 0 and not isinstance(trainer.strategy.model, FullyShardedDataParallel):
            found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
            for name, gradient in found.items():
                self.gradients[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient.clone()

    def on_validation_batch_end(self, trainer, module, outputs, batch, i):
        self.scores |= dict(zip(outputs["index"].tolist(), outputs["scores"].tolist(), strict=True))

    def on_validation_end(self, trainer, module):
        self.validated.append(trainer.global_step)

    def on_train_batch_end(self, trainer, module, outputs, batch, i):
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))
        whole = trainer.strategy.model
        units = FullyShardedDataParallel.fsdp_modules(whole) if isinstance(whole, FullyShardedDataParallel) else []
        self.sharded = sum(isinstance(parameter, DTensor) for parameter in module.network.parameters()) + len(units)


def build(data, tokenizer, cell, ranks):
    mode, _, turn = (*cell.split(":"), "")[:3]
    changed = {"llm": {}, "tuning": {}, "inputs": {}, "optimization": {}, "module": {}, **TURNS[turn]}
    L.seed_everything(0)
    preprocess = ActionTokenizer.from_pretrained(tokenizer).preprocess
    module = SkeletonDataModule(data, "synthetic_xsub", preprocess=preprocess, batch_size=CLIPS // ranks)
    module.rows["val"] = module.rows["val"][:VALIDATED]
    model = Seeded(
        tokenizer,
        module.class_names,
        "ntu25",
        llm=LanguageModel(attention="eager", **changed["llm"]),
        tuning=Tuning(mode=mode, r=4, dropout=0.0, **changed["tuning"]),
        inputs=Inputs(map=mode == "frozen", **changed["inputs"]),
        optimization=Optimization(lr=1e-3, warmup_steps=1, **changed["optimization"]),
        **changed["module"],
    )
    return model, module


def build_trainer(out, cell, ranks, steps, callbacks):
    _, strategy, turn = (*cell.split(":"), "")[:3]
    several = FSDP2(sharded_checkpoints=True) if turn == "shards" else strategy
    return L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=several if ranks > 1 else "auto",
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        val_check_interval=STEPS // 2,
        inference_mode=not strategy.startswith("fsdp"),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        default_root_dir=str(out),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
    )


def run(data, tokenizer, out, cell, ranks, *, steps=STEPS, resume=None):
    model, module = build(data, tokenizer, cell, ranks)
    losses = Losses()
    trainer = build_trainer(out, cell, ranks, steps, [losses, StepSeed()])
    trainer.fit(model, datamodule=module, ckpt_path=resume)
    name = f"{cell.replace(':', '_')}_{ranks}" + ("_resumed" if resume else "")
    if steps < STEPS:
        trainer.save_checkpoint(out / f"{name}.ckpt")
        return
    model.export(out / name)
    (out / f"{name}_{trainer.global_rank}.json").write_text(json.dumps({"scores": losses.scores, "held": losses.held}))
    if trainer.is_global_zero:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        found = {"losses": losses.losses, "metrics": metrics, "sharded": losses.sharded, "validated": losses.validated}
        (out / f"{name}.json").write_text(json.dumps(found))
        torch.save(losses.gradients, out / f"{name}.pt")


def evaluate(data, tokenizer, out, cell, ranks, writers):
    model, module = build(data, tokenizer, cell, ranks)
    losses = Losses()
    trainer = build_trainer(out, cell, ranks, STEPS, [losses])
    path = out / f"{cell.replace(':', '_')}_{writers}.ckpt"
    trainer.validate(model, datamodule=module, ckpt_path=path, verbose=False)
    name = f"{path.stem}_read_by_{ranks}_{trainer.global_rank}"
    (out / f"{name}.json").write_text(json.dumps({"scores": losses.scores}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, tokenizer, out, *cells = sys.argv[1:]
    where = data, tokenizer, Path(out)
    alone = os.environ["LOCAL_RANK"] == "0"
    if alone:
        for cell in cells:
            run(*where, cell, 1)
            if cell.endswith("shards"):
                run(*where, cell, 1, steps=2)
    for cell in cells:
        run(*where, cell, 2)
        if cell in STOPPED:
            run(*where, cell, 2, steps=2)
            run(*where, cell, 2, resume=Path(out) / f"{cell.replace(':', '_')}_2.ckpt")
        if cell.endswith("shards"):
            for writers in (1, 2):
                evaluate(*where, cell, 2, writers)
    distributed.destroy_process_group()
    for cell in cells:
        if alone and cell.endswith("shards"):
            for writers in (1, 2):
                evaluate(*where, cell, 1, writers)
