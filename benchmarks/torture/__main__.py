"""python -m benchmarks.torture 100 --seed 0      (about a quarter of a minute a round)."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.torture import runs
from benchmarks.torture.disks import mend, small_disk
from benchmarks.torture.ends import differences, newest_step
from benchmarks.torture.interruptions import Interruption, Reference, complaints, draw
from benchmarks.torture.jobs import Bench, Ended
from benchmarks.torture.runs import Variant
from benchmarks.torture.zygote import Zygote


@dataclass
class Tally:
    """What came to pass, over all rounds."""

    met: dict[str, list[Ended]] = field(default_factory=lambda: defaultdict(list))
    resumes: int = 0
    identical: int = 0
    complaints: list[str] = field(default_factory=list)


class Torture:
    """Rounds of one seed; untouched runs to compare with are made when they are first needed."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.seed, self.tally = bench, seed, Tally()
        self.references: dict[Variant, Reference] = {}
        self.seconds = 0.0

    def reference(self, variant: Variant) -> Reference:
        """The untouched run of a variant."""
        known = self.references.get(variant.untouched)
        if known is not None:
            return known
        folder = self.bench.base / variant.untouched.name
        ended = self.bench.run(variant.untouched, folder)
        if any(ended.codes):
            raise SystemExit(f"{variant.untouched}: untouched, it ended with {ended.codes}\n{ended.said}")
        size = (folder / "checkpoints" / f"step={runs.STEPS}.ckpt").stat().st_size
        self.references[variant.untouched] = Reference(folder, ended.counts, size, self.seconds)
        return self.references[variant.untouched]

    def first(self) -> None:
        """Stage 1, whose tokenizer stage 2 reads, and again in a real process: forked ones are as good."""
        plain, again = Variant(1), self.bench.base / "real"
        ended = self.bench.run(plain, again, whole=True)
        self.seconds = ended.seconds
        unlike = differences(self.reference(plain).folder, again)
        if any(ended.codes) or unlike:
            raise SystemExit(f"a real process ended with {ended.codes}, unlike a forked one: {unlike}\n{ended.said}")

    def round(self, number: int) -> None:
        """One run from its first start to its end."""
        rng = Random(f"{self.seed}/{number}")
        variant = runs.draw(rng)
        reference = self.reference(variant)
        disk = self.bench.base / f"round_{number}"
        told: list[str] = []
        wrong: list[str] = []
        before = self.bench.starts
        with small_disk(disk):
            folder = disk / "run"
            for _ in range(rng.choice((1, 2, 2, 3))):
                interruption = draw(rng, variant, reference, newest_step(folder))
                ended = self._meet(variant, folder, interruption, wrong)
                where = [f"at {spot}" for *_, spot in ended.sprung[:1]]
                told.append(" ".join([interruption.kind, *where, f"-> {ended.codes}"]))
                if (folder / "results.json").is_file():
                    break
            self._finish(variant, folder, wrong)
            wrong += _unlike(reference.folder, folder) if not wrong else []
            if wrong:
                shutil.copytree(disk, self.bench.base / f"kept_{number}", symlinks=True)
        self.tally.identical += not wrong
        which = f"round {number}, starts {before + 1} to {self.bench.starts}"
        self.tally.complaints += [f"{which} ({variant}): {line}" for line in wrong]
        print(f"round {number}, {variant}: {'; '.join(told)}: {wrong or 'as untouched'}", flush=True)

    def _meet(self, variant: Variant, folder: Path, interruption: Interruption, wrong: list[str]) -> Ended:
        before = newest_step(folder)
        self.tally.resumes += before >= 0
        ended = self.bench.run(
            variant,
            folder,
            interruption.traps,
            interruption.blows,
            whole=interruption.whole,
            all_die=interruption.all_die,
        )
        mend(folder)
        self.tally.met[interruption.kind].append(ended)
        found = complaints(interruption, ended, (folder / "results.json").is_file())
        if newest_step(folder) < before:
            found.append(f"the checkpoint of step {before} was lost")
        wrong += [f"{interruption}: {line}" for line in found]
        return ended

    def _finish(self, variant: Variant, folder: Path, wrong: list[str]) -> None:
        """The same command once more, to the end; of a finished run it only tells the results."""
        self.tally.resumes += newest_step(folder) >= 0 and not (folder / "results.json").is_file()
        ended = self.bench.run(variant, folder)
        if any(ended.codes) or not (folder / "results.json").is_file():
            wrong.append(f"lost: undisturbed, it ended with {ended.codes}: {ended.said[-2000:]}")


def _unlike(untouched: Path, folder: Path) -> list[str]:
    """What is not as if nothing had been."""
    state = json.loads((folder / "progress.json").read_text())
    wrong = differences(untouched, folder)
    if (state["state"], state["step"]) != ("finished", runs.STEPS):
        wrong.append(f"progress.json tells {state}")
    return wrong + [f"{path} was left behind" for path in folder.rglob(".*.tmp")]


def table(tally: Tally, rounds: int, seconds: float) -> str:
    """What came, a kind a line."""
    lines = [f"{'interruption':<40}{'times':>6}{'hit':>6}  exit codes (of the ranks together)"]
    for kind, all_ended in sorted(tally.met.items()):
        hit = sum(bool(ended.sprung or ended.struck) for ended in all_ended)
        codes = Counter("/".join("?" if code is None else str(code) for code in ended.codes) for ended in all_ended)
        shown = ", ".join(f"{code} x{count}" for code, count in codes.most_common())
        lines.append(f"{kind:<40}{len(all_ended):>6}{hit:>6}  {shown}")
    met = [ended for all_ended in tally.met.values() for ended in all_ended]
    hit = sum(bool(ended.sprung or ended.struck) for ended in met)
    lines.append(
        f"{rounds} runs, {hit} interruptions ({len(met) - hit} came too late), {tally.resumes} resumes,"
        f" {tally.identical} bit-identical ends, {len(tally.complaints)} complaints, {seconds:.0f} s"
    )
    return "\n".join([*lines, *tally.complaints])


def main() -> int:
    """Torture, tell, and fail if anything was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this round alone")
    parser.add_argument("--keep", type=Path, help="work here, and leave what was found")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as base:
        Path(base).mkdir(parents=True, exist_ok=True)
        runs.prepare(Path(base))
        zygote = Zygote()
        torture = Torture(Bench(Path(base), zygote), arguments.seed)
        torture.first()
        numbers = range(arguments.rounds) if arguments.only is None else [arguments.only]
        for number in numbers:
            torture.round(number)
        zygote.close()
    print(table(torture.tally, len(numbers), time.monotonic() - begin))
    return int(torture.tally.identical < len(numbers))


if __name__ == "__main__":
    sys.exit(main())
