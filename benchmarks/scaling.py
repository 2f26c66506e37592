"""What grows with the number of ranks, measured small: docs/scaling.md derives 8, 64 and 1,000 GPUs from it.

python -m benchmarks.scaling          the first table of that page
python -m benchmarks.scaling PAGE     its last tables, from what PAGE says was measured and is assumed

Two gloo ranks train; torch's profiler counts what each collective of one optimiser step carries. Bytes do not depend on
the machine; seconds do.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import multiprocessing
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from benchmarks.growth import tables
from benchmarks.ntu_like import write_ntu_like
from callbacks import AtomicCheckpointIO
from datamodules import SkeletonDataModule
from lightning_modules import FSDP2, LitLLMRecognizer, LitVQVAE, Optimization
from skeleton_llm.language import LanguageModel, Tuning
from skeleton_llm.losses import codebook_losses, context_loss, zipf_loss, zipf_target
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.skeletons import Augmentation, Preprocess

PAPER = VQVAEConfig(width=512, depth=3, num_codes=512, tokens_per_step=1, streams=("joint",), root_weight=1.0)
WIDTH, FRAMES, ACCUMULATED = 5120, 64, 2  # of LLaMA 13B
CASES = ("vqvae", "lora", "full")
_BYTES = {"float": 4, "long int": 8, "unsigned char": 1, "bool": 1, "double": 8, "int": 4}
_MATTERS = ("lightning_modules", "datamodules", "callbacks", "skeleton_llm.cli.fit")


class Counted(L.Callback):
    """Profiles the second optimiser step, and sums the bytes of its collectives on rank 0."""

    def __init__(self, every: int) -> None:
        self.every, self.found = every, Counter[str]()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.every:
            self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profile.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2 * self.every - 1:
            self.profile.stop()
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                self.profile.export_chrome_trace(file.name)
                self.found = payloads(json.loads(Path(file.name).read_text())["traceEvents"])


def payloads(events: list[dict[str, Any]]) -> Counter[str]:
    """Bytes that a rank gives to collectives, by kind; gloo makes a reduce-scatter of an all-reduce."""
    found, asked = Counter[str](), ""
    for event in sorted((e for e in events if "ts" in e), key=lambda e: float(e["ts"])):
        name = event["name"]
        if name.startswith("c10d::"):
            asked = name.removeprefix("c10d::").strip("_")
        elif name.startswith("gloo:"):
            dims, kinds = event["args"].get("Input Dims", []), event["args"].get("Input type", [])
            kind = "reduce_scatter" if "reduce_scatter" in asked else name.removeprefix("gloo:")
            for shape, of in zip(dims, kinds, strict=True):
                found[kind] += int(torch.Size(shape).numel()) * _BYTES[of]
    return found


def rank(number: int, folder: Path, port: int) -> None:
    """Train every case as one of two ranks; rank 0 writes what it saw."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(number)}
    os.environ.update(env, KINETO_LOG_LEVEL="5")
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with redirect_stdout(StringIO()):
        found = {case: train(case, folder) for case in CASES}
    if number == 0:
        (folder / "found.json").write_text(json.dumps(found))


def train(case: str, folder: Path) -> dict[str, float]:
    """Two optimiser steps and a checkpoint."""
    every = 1 if case == "vqvae" else ACCUMULATED
    data = SkeletonDataModule(str(folder / "data"), "synthetic_xsub", preprocess=Preprocess(FRAMES), batch_size=2)
    counted, strategy = Counted(every), FSDP2(sharded_checkpoints=True) if case == "full" else "ddp"
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=2,
        max_epochs=-1,
        limit_val_batches=0,
        accumulate_grad_batches=every,
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[counted],
    )
    model = build(case, folder, data)
    trainer.fit(model, datamodule=data)
    path, begin = folder / f"{case}.ckpt", time.perf_counter()
    trainer.save_checkpoint(path, weights_only=False)
    return {
        "seconds": time.perf_counter() - begin,
        "checkpoint": sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir())),
        "learns": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "layers": sum(
            w.numel() for name, w in model.named_parameters() if name.startswith("network.llm.model.layers.")
        ),
        **counted.found,
    }


def build(case: str, folder: Path, data: SkeletonDataModule) -> L.LightningModule:
    """Stage 1 at the paper's size, or stage 2 with the built-in language model."""
    if case == "vqvae":
        wide, more = LanguageModel(str(folder / "wide")), {"initialisation": "random", "sample_clips": 2}
        return LitVQVAE("ntu25", 2, wide, PAPER, mmd_weight=0.0, **more)  # type: ignore[arg-type]
    return LitLLMRecognizer(
        str(folder / "tokenizer"),
        data.class_names,
        "ntu25",
        LanguageModel(attention="eager"),
        Tuning(mode="full") if case == "full" else Tuning(r=64),
        optimization=Optimization(lr=1e-4, warmup_steps=1),
        generate=False,
    )


def two_ranks(folder: Path) -> dict[str, dict[str, float]]:
    """What rank 0 of two saw in each case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(rank, (folder, port), nprocs=2)
    return json.loads((folder / "found.json").read_text())


def clip_flop(batch: int = 2) -> float:
    """Of one clip through stage 1's network and losses, forward and backward; the MMD is no clip's."""
    network = VQVAE(PAPER, layout="ntu25", num_persons=2, dim=WIDTH)
    x, target = torch.randn(batch, FRAMES, network.features.num_channels), zipf_target(PAPER.num_codes)
    with FlopCounterMode(display=False) as counter:
        out = network(x)
        pull = codebook_losses(out.latents, out.codebook, out.indices)
        bias = zipf_loss(out.counts.sum(0), target) + context_loss(out.counts)
        ((out.reconstruction - x).abs().mean() + pull.embedding + pull.commitment + bias).backward()
    return counter.get_total_flops() / batch


def feeder(folder: Path) -> tuple[float, float]:
    """Clips a second by one thread, cropped, resized and rotated, and the bytes that one clip has on disk."""
    augmentation = Augmentation(rotation=0.2, tilt=0.1, scale=0.05, crop=0.8)
    data = SkeletonDataModule(str(folder / "data"), "synthetic_xsub", Preprocess(FRAMES), augmentation)
    batches, taken = data.batches("train", augmentation), []
    rows = [i % len(data.rows["train"]) for i in range(256)]
    for turn in range(9):
        begin = time.process_time()  # of a core of its own, however busy the machine is
        batches.__getitems__([(turn, row) for row in rows])
        taken.append(time.process_time() - begin)
    size = (folder / "data/frames.npy").stat().st_size / len(data.data.table["length"])
    return len(rows) / median(taken), size


def start_up() -> tuple[int, float]:
    """Files that one process opens to import everything, and a core's seconds."""
    code = f"""
import sys, time
seen = set()
sys.addaudithook(lambda event, given: event == "open" and seen.add(str(given[0])))
for name in {_MATTERS!r}:
    __import__(name)
print(len(seen), time.process_time())
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout  # noqa: S603
    files, seconds = out.split()[-2:]
    return int(files), float(seconds)


def measure() -> dict[str, float]:
    """Every number of the page's first table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        write_ntu_like(folder / "data")
        AutoConfig.for_model("llama", hidden_size=WIDTH, vocab_size=8).save_pretrained(folder / "wide")
        small = VQVAE(VQVAEConfig(width=16, depth=1, num_codes=32), layout="ntu25", num_persons=2, dim=128)
        info = {"llm": {"fingerprint": LanguageModel().fingerprint()}}
        ActionTokenizer(small, Preprocess(FRAMES), info).save_pretrained(folder / "tokenizer")
        vqvae, lora, full = two_ranks(folder).values()
        clips, size = feeder(folder)
    files, seconds = start_up()
    inside, outside = full["layers"], full["learns"] - full["layers"]
    gathered = 2 * full["all_gather"] / 4 / ACCUMULATED  # by both ranks, in float32; what lies outside the layers once
    layers = (gathered - outside) / inside
    scattered = full["reduce_scatter"] / full["learns"] / ACCUMULATED
    return {
        "stage 1: weights that learn": vqvae["learns"],
        "stage 1: bytes all-reduced a step": vqvae["all_reduce"],
        "stage 1: bytes of sums gathered from each rank a step": vqvae["all_gather"],
        "stage 1: FLOP of a clip": clip_flop(),
        "stage 1: bytes of a checkpoint": vqvae["checkpoint"],
        "stage 2, LoRA: bytes all-reduced a step for each weight that learns": lora["all_reduce"] / lora["learns"],
        "stage 2, LoRA: bytes of a checkpoint for each weight that learns": lora["checkpoint"] / lora["learns"],
        "stage 2, FSDP2: times that a decoder layer is gathered a micro-batch": layers,
        "stage 2, FSDP2: bytes reduced and scattered a micro-batch for each weight that learns": scattered,
        "stage 2, FSDP2: bytes of a checkpoint for each weight that learns": full["checkpoint"] / full["learns"],
        "feeder: clips a second by one thread": clips,
        "feeder: bytes of a clip": size,
        "checkpoint: bytes a second by one writer, synced": vqvae["checkpoint"] / vqvae["seconds"],
        "start-up: files that a process opens": files,
        "start-up: a core's seconds of imports": seconds,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(tables(Path(sys.argv[1]).read_text()))
    else:
        for name, value in measure().items():
            print(f"| {name} | {value:,.4g} |" if value < 1000 else f"| {name} | {value:,.0f} |")
