"""``skeleton-llm plan``: does stage 2 fit on these GPUs, and how long does an epoch take?"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skeleton_llm.skeletons import PreparedDataset

if TYPE_CHECKING:
    from skeleton_llm.language.memory import Forecast, Rehearsal, Setup, Step

_GIB = 2**30
_RESERVE = 1.0  # GiB: CUDA's context and libraries, NCCL's buffers, gaps between tensors, stage 1's tokenizer
_MODES = ("lora", "qlora", "int8", "full", "frozen")
_STRATEGIES = ("single", "ddp", "fsdp2", "fsdp1")


class Card(NamedTuple):
    """What a GPU has: GiB that PyTorch sees, compute capability, dense peak TFLOP/s in 16 bits and in float32."""

    gib: float
    capability: tuple[int, int]
    half: float
    single: float


CARDS = {  # NVIDIA's data sheets
    "V100-16": Card(15.8, (7, 0), 125, 15.7),
    "V100-32": Card(31.7, (7, 0), 125, 15.7),
    "T4": Card(14.6, (7, 5), 65, 8.1),
    "24GB": Card(23.6, (8, 6), 71, 35.6),  # RTX 3090; an RTX 4090 is about twice as fast
    "L40S": Card(44.4, (8, 9), 362, 91.6),
    "A100-40": Card(39.4, (8, 0), 312, 19.5),
    "A100-80": Card(79.2, (8, 0), 312, 19.5),
    "H100-80": Card(79.1, (9, 0), 989, 67),
    "H200": Card(139.8, (9, 0), 989, 67),
}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm plan",
        description="Tell the memory of each GPU, the time of an epoch and the largest micro-batch of stage 2, from the"
        " model's configuration alone. Exit code 1: it does not fit, or cannot run.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="model folder (config.json is enough), hub id, or built-in")
    parser.add_argument("--revision", help="of a hub id")
    parser.add_argument("--gpu", choices=CARDS, required=True, help="the card")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many, over all nodes (%(default)s)")
    parser.add_argument("--mode", choices=_MODES, default="lora", help="tuning.mode (%(default)s)")
    parser.add_argument("--strategy", choices=_STRATEGIES, help="ddp for several GPUs by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="16 bits of the card's by default")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="llm.attention (%(default)s)")
    parser.add_argument("--r", type=int, default=64, help="rank of the adapters (%(default)s)")
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"], help="their layers (q_proj v_proj)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    parser.add_argument("--input-map", action="store_true", help="inputs.map")
    parser.add_argument(
        "--optimizer", choices=("adamw", "adamw_8bit", "paged_adamw_8bit"), default="adamw", help="(%(default)s)"
    )
    parser.add_argument("--frames", type=int, default=64, help="T, frames of a clip (%(default)s)")
    parser.add_argument(
        "--stride", type=int, default=4, help="frames that the tokenizer makes one step of (%(default)s)"
    )
    parser.add_argument("--tokens-per-step", type=int, default=1, help="tokens of a step (%(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="copies of a sentence in the prompt (%(default)s)")
    parser.add_argument(
        "--prompt", type=int, nargs=2, default=[9, 12], metavar=("BEFORE", "AFTER"),
        help="tokens of the prompt before and after the sentence (9 12; with the Alpaca wrapper about 36 20)",
    )  # fmt: skip
    parser.add_argument(
        "--answer", type=int, default=8, help="tokens of the longest class name and its end (%(default)s)"
    )
    parser.add_argument("--batch", type=int, default=4, help="clips of a micro-batch on each GPU (%(default)s)")
    parser.add_argument("--global-batch", type=int, default=256, help="clips of an optimiser step (%(default)s)")
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--clips", type=int, help="clips of an epoch (40,091: NTU60 X-Sub)", default=40_091)
    clips.add_argument("--data", type=Path, metavar="FOLDER", help="a prepared dataset: all its clips")
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the card's peak (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    arguments = parser.parse_args(argv)
    counts = ("gpus", "r", "frames", "stride", "tokens_per_step", "repeat", "answer", "batch", "global_batch", "clips")
    for name in counts:
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    if not 0 < arguments.efficiency <= 1:
        parser.error(f"--efficiency is a share of the peak, above 0 and up to 1, got {arguments.efficiency}")
    return arguments


def plan(argv: Sequence[str]) -> int:
    """Print one plan."""
    arguments = _arguments(argv)
    from skeleton_llm.language.memory import Rehearsal, Step, read_config
    from skeleton_llm.language.tuning import Tuning

    try:
        setup = _setup(arguments)
        tuning = Tuning(
            arguments.mode, r=arguments.r, targets=arguments.targets,
            gradient_checkpointing=arguments.gradient_checkpointing,
        )  # fmt: skip
        rehearsal = Rehearsal(read_config(arguments.model, arguments.revision), tuning, setup)
        tokens = math.ceil(arguments.frames / arguments.stride) * arguments.tokens_per_step * arguments.repeat
        before, after = arguments.prompt
        step = Step(arguments.batch, tokens, before, after, arguments.answer)
        if arguments.data is not None:
            arguments.clips = len(PreparedDataset.open(arguments.data))
        told = _plan(arguments, rehearsal, step, setup)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(told, indent=1) if arguments.json else _text(told))
    return int(not told["fits"])


def _setup(arguments: argparse.Namespace) -> "Setup":
    """How the model is held.

    Raises:
        ValueError: it cannot be held so.
    """
    from skeleton_llm.language.memory import Setup
    from skeleton_llm.language.tuning import refuse, refuse_bfloat16, refuse_flat

    card = CARDS[arguments.gpu]
    strategy: Any = arguments.strategy or ("single" if arguments.gpus == 1 else "ddp")
    dtype: Any = arguments.dtype or ("bfloat16" if card.capability >= (8, 0) else "float16")
    refuse(arguments.mode, strategy, "cuda", arguments.optimizer)
    refuse_flat(strategy, dtype, input_map=arguments.input_map)
    refuse_bfloat16({"llm.dtype": dtype}, arguments.gpu, card.capability)
    if strategy == "single" and arguments.gpus > 1:
        raise ValueError(f"--strategy single runs on one GPU, got --gpus {arguments.gpus}; take ddp or fsdp2")
    if strategy.startswith("fsdp") and dtype == "float16":
        raise ValueError(
            f"{strategy.upper()} does not compute in 16-mixed, which float16 needs; take --mode qlora --strategy ddp,"
            " or --dtype float32"
        )
    if arguments.mode == "frozen" and not arguments.input_map:
        raise ValueError("--mode frozen without --input-map leaves nothing to learn; add --input-map")
    return Setup(
        dtype=dtype,
        mixed=dtype != "float32",
        attention=arguments.attention,
        strategy=strategy,
        gpus=arguments.gpus,
        optimizer=arguments.optimizer,
        input_map=arguments.input_map,
    )


def _plan(arguments: argparse.Namespace, rehearsal: "Rehearsal", step: "Step", setup: "Setup") -> dict[str, Any]:
    card = CARDS[arguments.gpu]
    told = rehearsal.forecast(step)
    room = int((card.gib - _RESERVE) * _GIB)
    per_gpu = max(1, arguments.global_batch // arguments.gpus)
    largest = rehearsal.largest(step, room, per_gpu)
    peak = card.single if setup.dtype == "float32" else card.half
    flops = told.flops / step.batch
    seconds = flops * arguments.clips / (arguments.gpus * arguments.efficiency * peak * 1e12)
    return {
        "model": arguments.model,
        "parameters": rehearsal.parameters,
        "mode": arguments.mode,
        "strategy": setup.strategy,
        "dtype": setup.dtype,
        "gpu": arguments.gpu,
        "gpus": arguments.gpus,
        "tokens": asdict(step),
        "gib": {**_gib(told), "reserve": _RESERVE},
        "sum_gib": round(told.total / _GIB + _RESERVE, 3),
        "card_gib": card.gib,
        **({"building_gib": round(told.building / _GIB + _RESERVE, 3)} if told.building else {}),
        "fits": told.needed <= room,
        "clips": arguments.clips,
        "tflop_per_clip": flops / 1e12,
        "efficiency": arguments.efficiency,
        "peak_tflops": peak,
        "hours_per_epoch": seconds / 3600,
        "largest_micro_batch": largest,
        "keys": _keys(arguments, largest, per_gpu),
        "notes": _notes(arguments, card, told, room),
    }


def _gib(told: "Forecast") -> dict[str, float]:
    order = ("weights", "adapters", "gradients", "optimiser", "activations", "logits", "cast weights", "communication")
    return {row: round(told.rows.get(row, 0) / _GIB, 3) for row in order}


def _keys(arguments: argparse.Namespace, largest: int, per_gpu: int) -> dict[str, int]:
    """The largest micro-batch that divides the global batch, and how many of them it takes."""
    if largest == 0:
        return {}
    batch = next(size for size in range(largest, 0, -1) if per_gpu % size == 0)
    return {"batch_size": batch, "accumulate_grad_batches": per_gpu // batch}


def _notes(arguments: argparse.Namespace, card: Card, told: "Forecast", room: int) -> list[str]:
    notes = []
    if card.capability < (7, 5):
        notes.append(
            "compute capability 7.0 needs PyTorch's CUDA 12.6 wheel:"
            " pip install torch --index-url https://download.pytorch.org/whl/cu126"
        )
        if arguments.mode in ("qlora", "int8") or arguments.optimizer != "adamw":
            notes.append("bitsandbytes recommends compute capability 7.5 or later: try a short run first")
    if card.capability < (8, 0):
        notes.append("no bfloat16 and no flash attention before 8.0: float16 (configs/hardware/v100.yaml), sdpa")
    if arguments.global_batch % arguments.gpus:
        notes.append(f"{arguments.gpus} GPUs do not divide a global batch of {arguments.global_batch}")
    if told.building > room:
        notes.append(
            f"while it is built, every GPU holds the whole quantised model, {told.building / _GIB:.2f} GiB, and it does"
            " not fit; take larger GPUs, or --mode lora, which is built in the CPU's memory"
        )
    elif told.total > room:
        notes.append("does not fit; less memory: " + ", ".join(_savings(arguments)))
    return notes


def _savings(arguments: argparse.Namespace) -> list[str]:
    """Ways to less memory that can run on this card with all that was asked for beside them."""
    shared: dict[str, Any] = {"strategy": "fsdp2", "gpus": max(2, arguments.gpus)}
    changes: dict[str, dict[str, Any]] = {
        "--gradient-checkpointing": {"gradient_checkpointing": True},
        "a smaller --batch": {"batch": 1},
        "--mode qlora": {"mode": "qlora"},
        f"--strategy fsdp2 --gpus {shared['gpus']}": shared,
    }
    given = vars(arguments)
    return [
        *(way for way, change in changes.items() if given != given | change and _works({**given, **change})),
        "more or larger GPUs",
    ]


def _works(given: dict[str, Any]) -> bool:
    try:
        _setup(argparse.Namespace(**given))
    except ValueError:
        return False
    return True


def _text(told: dict[str, Any]) -> str:
    sizes = told["tokens"]
    lines = [
        f"{told['model']}, {told['parameters'] / 1e9:.2f} G weights and adapters, {told['mode']}, {told['dtype']},"
        f" on {told['gpus']} x {told['gpu']} ({told['strategy']})",
        f"a micro-batch of {sizes['batch']} clips of {sizes['before']} + {sizes['tokens']} + {sizes['after']} tokens"
        f" and {sizes['answer']} of the answer, on each GPU in GiB:",
        "",
        *(f"  {row:<14}{size:>8.2f}" for row, size in told["gib"].items() if size),
        *_sums(told),
        "",
        f"an epoch of {told['clips']:,} clips of {told['tflop_per_clip']:.3g} TFLOP:"
        f" {_duration(told['hours_per_epoch'])} at {told['efficiency']:.0%}"
        f" of {told['gpus']} x {told['peak_tflops']:g} TFLOP/s",
        f"largest micro-batch that fits: {told['largest_micro_batch']}"
        + "".join(f", {key} {value}" for key, value in told["keys"].items()),
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in told["notes"])])


def _sums(told: dict[str, Any]) -> list[str]:
    """The sum, and what there is before the model is sharded; the larger one is held against the card."""
    sums = {"sum": told["sum_gib"], **({"while built": told["building_gib"]} if "building_gib" in told else {})}
    verdict = f"  of {told['card_gib']}: {'fits' if told['fits'] else 'does not fit'}"
    largest = max(sums, key=lambda name: sums[name])
    return [f"  {name:<14}{size:>8.2f}{verdict if name == largest else ''}" for name, size in sums.items()]


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.1f} min"
