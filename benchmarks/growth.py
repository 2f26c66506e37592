"""1, 8, 64 and 1,000 GPUs on paper: the formulas of docs/scaling.md over the numbers that the page states.

n GPUs on N nodes of 8, B clips a step, C seconds of a checkpoint, M seconds between failures.
"""

import math
import re
from collections.abc import Callable, Mapping

GPUS = (1, 8, 64, 1000)
_ROW = re.compile(r"^\| ([^|]+?) \| ([\d,.e+-]+) \|", re.MULTILINE)


def stated(page: str) -> dict[str, float]:
    """Every number that the page measured or assumes, by its name."""
    return {name: float(number.replace(",", "")) for name, number in _ROW.findall(page)}


class Growth:
    """What ``n`` GPUs come to, all in seconds, bytes and clips, from what was ``stated``."""

    def __init__(self, stated: Mapping[str, float], n: int) -> None:
        """Settle what depends on the hardware and the batch alone."""
        self.of, self.n, self.nodes = stated, n, math.ceil(n / 8)
        self.flops = stated["A100: FLOP a second in bfloat16"] * stated["share of it that is reached"]
        within, across = "NVLink: bytes a second of a GPU, each way", "HDR: bytes a second of a node's one port"
        self.link = stated[within if self.nodes == 1 else across]
        self.batch = max(stated["clips a step"], stated["clips of a micro-batch"] * n)
        self.weights, self.learns = stated["LLaMA 13B: weights"], stated["LoRA r 64 on q and v: weights that learn"]

    def gather(self, whole: float) -> float:
        """All-gather, or reduce-scatter, of ``whole`` bytes, of which each GPU has an n-th."""
        return (self.n - 1) / self.n * whole / self.link

    def all_reduce(self, payload: float) -> float:
        """As a reduce-scatter and an all-gather."""
        return 2 * self.gather(payload)

    def network(self) -> float:
        return self.batch / self.n * self.of["stage 1: FLOP of a clip"] / self.flops

    def mmd(self) -> float:
        """On every GPU alike: it depends on the codebook and the words, on no clip."""
        return self.of["stage 1: FLOP of the exact MMD"] / self.flops

    def gradients(self) -> float:
        return self.all_reduce(self.of["stage 1: bytes all-reduced a step"])

    def sums(self) -> float:
        """Bytes of usage counts and sums that a rank receives."""
        return self.n * self.of["stage 1: bytes of sums gathered from each rank a step"]

    def step1(self) -> float:
        return self.network() + self.mmd() + self.gradients() + 2 * self.gather(self.sums())

    def of_a_node(self) -> float:
        """Clips a second that its feeders must make."""
        return self.batch / self.step1() / self.nodes

    def feeders(self) -> float:
        return self.of_a_node() / self.of["feeder: clips a second by one thread"]

    def clips(self, passes: int) -> float:
        """Stage 2's of a step on one GPU, at 2 FLOP a weight, a token and a pass."""
        return self.batch / self.n * 2 * passes * self.weights * self.of["stage 2: tokens of a clip"] / self.flops

    def micro_batches(self) -> float:
        return self.batch / self.n / self.of["clips of a micro-batch"]

    def adapters(self) -> float:
        return self.all_reduce(
            self.of["stage 2, LoRA: bytes all-reduced a step for each weight that learns"] * self.learns
        )

    def step2(self) -> float:
        return self.clips(2) + self.adapters()

    def layers(self, width: int) -> float:
        """FSDP2's gathers of a micro-batch, ``width`` bytes a weight; words and head are 3 % of the weights."""
        times = self.of["stage 2, FSDP2: times that a decoder layer is gathered a micro-batch"]
        return self.gather(times * width * self.weights)

    def scatter(self) -> float:
        name = "stage 2, FSDP2: bytes reduced and scattered a micro-batch for each weight that learns"
        return self.gather(self.of[name] * self.weights)

    def lora_bytes(self) -> float:
        return self.of["stage 2, LoRA: bytes of a checkpoint for each weight that learns"] * self.learns

    def full_bytes(self) -> float:
        return self.of["stage 2, FSDP2: bytes of a checkpoint for each weight that learns"] * self.weights

    def written(self, size: float, writers: int) -> float:
        a_second = writers * self.of["checkpoint: bytes a second by one writer, synced"]
        return size / min(a_second, self.of["file system: bytes a second in all"])

    def lora(self) -> float:
        return self.written(self.lora_bytes(), 1)

    def full(self) -> float:
        return self.written(self.full_bytes(), self.n)

    def between_failures(self) -> float:
        return self.of["GPU hours to a failure"] / self.n * 3600

    def interval(self, seconds: float) -> float:
        """Young's: the time from one checkpoint to the next that loses least."""
        return math.sqrt(2 * seconds * self.between_failures())

    def lost(self, seconds: float) -> float:
        """Share of the time that goes to checkpoints and to work done twice, at that interval."""
        every = self.interval(seconds)
        return seconds / every + every / 2 / self.between_failures()

    def tested(self) -> float:
        """Clips of the test on the GPU that has most."""
        return math.ceil(self.of["NTU60 X-Sub: clips of the test"] / self.n)

    def idle(self) -> float:
        return 1 - self.of["NTU60 X-Sub: clips of the test"] / self.n / self.tested()

    def model_read(self) -> float:
        return self.nodes * 2 * self.weights / self.of["file system: bytes a second in all"]


Row = tuple[str, str, str, Callable[[Growth], float]]
"""What, its formula as the page has it, how it is shown, the formula."""
_MS, _SHARE = "{:,.1f} ms", "{:.0%}"
TABLES: dict[str, list[Row]] = {
    "Stage 1 by DDP": [
        ("clips a step, B", "max(256, 4 n)", "{:,.0f}", lambda g: g.batch),
        (
            "the share of NTU60 X-Sub that they are",
            "B / clips",
            "{:.1%}",
            lambda g: g.batch / g.of["NTU60 X-Sub: clips of training"],
        ),
        ("networks", "B / n x FLOP / (FLOP/s x share)", _MS, lambda g: 1e3 * g.network()),
        ("exact MMD, on every GPU", "FLOP / (FLOP/s x share)", _MS, lambda g: 1e3 * g.mmd()),
        ("all-reduce of gradients", "2 (n - 1) / n x bytes / link", _MS, lambda g: 1e3 * g.gradients()),
        ("counts and sums that a rank receives", "n x bytes", "{:,.0f} bytes", Growth.sums),
        ("their way there and back", "2 (n - 1) x bytes / link", "{:,.3f} ms", lambda g: 2e3 * g.gather(g.sums())),
        ("step", "the sum", _MS, lambda g: 1e3 * g.step1()),
        ("of it on clips", "networks / step", _SHARE, lambda g: g.network() / g.step1()),
        ("clips a second", "B / step", "{:,.0f}", lambda g: g.batch / g.step1()),
        (
            "the recipe's 76,800,000 clips",
            "clips / clips a second",
            "{:,.2f} h",
            lambda g: g.of["stage 1: clips of the recipe"] * g.step1() / g.batch / 3600,
        ),
        ("cores that feed a node", "clips a second / N / a thread's", "{:,.1f}", Growth.feeders),
        (
            "a node's clips on disk",
            "clips a second / N x bytes",
            "{:,.0f} MB/s",
            lambda g: g.of_a_node() * g.of["feeder: bytes of a clip"] / 1e6,
        ),
    ],
    "Stage 2 by DDP: LoRA on 13B": [
        ("micro-batches of 4 on a GPU in a step", "B / (4 n)", "{:,.0f}", Growth.micro_batches),
        ("their clips", "B / n x 4 x weights x tokens / (FLOP/s x share)", _MS, lambda g: 1e3 * g.clips(2)),
        ("all-reduce of adapters, once a step", "2 (n - 1) / n x bytes / link", _MS, lambda g: 1e3 * g.adapters()),
        ("of the step on clips", "clips / (clips + all-reduce)", _SHARE, lambda g: g.clips(2) / g.step2()),
        (
            "the recipe's 300,032 clips",
            "clips / B x step",
            "{:,.1f} min",
            lambda g: g.of["stage 2: clips of the recipe"] * g.step2() / g.batch / 60,
        ),
        (
            "clips a second that a node's feeders make",
            "B / step / N",
            "{:,.0f}",
            lambda g: g.batch / g.step2() / g.nodes,
        ),
    ],
    "Stage 2 by FSDP2: a micro-batch of 4 on 13B": [
        (
            "LoRA: the clips",
            "4 x 4 x weights x tokens / (FLOP/s x share)",
            _MS,
            lambda g: 1e3 * g.clips(2) / g.micro_batches(),
        ),
        ("gathers of its bfloat16 base", "times x (n - 1) / n x 2 x weights / link", _MS, lambda g: 1e3 * g.layers(2)),
        (
            "every weight: the clips",
            "4 x 6 x weights x tokens / (FLOP/s x share)",
            _MS,
            lambda g: 1e3 * g.clips(3) / g.micro_batches(),
        ),
        ("gathers of float32 weights", "times x (n - 1) / n x 4 x weights / link", _MS, lambda g: 1e3 * g.layers(4)),
        ("scatter of their gradients", "(n - 1) / n x 4 x weights / link", _MS, lambda g: 1e3 * g.scatter()),
    ],
    "Checkpoints and failures": [
        ("mean time between failures, M", "GPU hours / n", "{:,.0f} h", lambda g: g.between_failures() / 3600),
        ("adapters, one file", "bytes x weights that learn", "{:,.2f} GB", lambda g: g.lora_bytes() / 1e9),
        ("written in, C", "size / writer", "{:,.1f} s", Growth.lora),
        ("best interval", "sqrt(2 C M)", "{:,.0f} min", lambda g: g.interval(g.lora()) / 60),
        ("time lost at it", "C / interval + interval / (2 M)", "{:.2%}", lambda g: g.lost(g.lora())),
        ("every weight of 13B, in shards", "bytes x weights", "{:,.0f} GB", lambda g: g.full_bytes() / 1e9),
        ("written in, C", "size / min(n x a writer's, file system)", "{:,.0f} s", Growth.full),
        ("by rank 0 alone", "size / writer", "{:,.0f} s", lambda g: g.written(g.full_bytes(), 1)),
        ("best interval, in shards", "sqrt(2 C M)", "{:,.0f} min", lambda g: g.interval(g.full()) / 60),
        ("time lost at it", "C / interval + interval / (2 M)", "{:.2%}", lambda g: g.lost(g.full())),
    ],
    "Test and start": [
        ("clips of the test on a GPU", "ceil(clips / n)", "{:,.0f}", Growth.tested),
        ("of GPU time idle in it", "1 - clips / (n x clips on a GPU)", "{:.1%}", Growth.idle),
        (
            "files opened on the shared disk",
            "n x files",
            "{:,.0f}",
            lambda g: g.n * g.of["start-up: files that a process opens"],
        ),
        ("13B in bfloat16, read once a node", "N x 2 x weights / file system", "{:,.0f} s", Growth.model_read),
    ],
}


_HEAD = f"| | | {' | '.join(f'{n:,} GPUs' if n > 1 else '1 GPU' for n in GPUS)} |"
_RULE = f"|---|---|{'---:|' * len(GPUS)}"


def tables(page: str) -> str:
    """The page's last tables, from its first two."""
    columns = [Growth(stated(page), n) for n in GPUS]
    lines = []
    for title, rows in TABLES.items():
        lines += [f"### {title}", "", _HEAD, _RULE]
        for name, says, shown, value in rows:
            lines.append(f"| {name} | {says} | {' | '.join(shown.format(value(column)) for column in columns)} |")
        lines.append("")
    return "\n".join(lines).strip()
