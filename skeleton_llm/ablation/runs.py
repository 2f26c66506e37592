"""The runs of ``skeleton-llm fit`` that a matrix comes to: where each lies, by which command, what it waits for."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from skeleton_llm.ablation.matrix import TOKENIZER, Cell, Matrix
from skeleton_llm.run_folder import starts
from skeleton_llm.whole import write_whole

_WITH_LLM = ("stage1", "stage2")  # bases whose model takes a language model


@dataclass(frozen=True)
class Setting:
    """What all runs of a table share.

    Attributes:
        folder: where the runs lie. data: the overlay in ``configs/data``. shipped: the folder of the shipped configs.
        overlays: further YAML files for every run. of_base: for the runs of one base (``stage1``) alone.
        llm: the language model, where it is not the configs'. more: further arguments of every run.
        quick: runs of seconds, which prove that everything works together and nothing else; of each cell what answers.
        matrix: the table's file, where it is not the shipped one.
    """

    folder: Path
    data: str
    shipped: Path
    overlays: tuple[str, ...] = ()
    of_base: dict[str, tuple[str, ...]] = field(default_factory=dict)
    llm: str | None = None
    more: tuple[str, ...] = ()
    quick: bool = False
    matrix: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run: the arguments of ``skeleton-llm fit``, and the run whose tokenizer it reads."""

    folder: Path
    arguments: tuple[str, ...]
    needs: "Run | None" = None

    @property
    def finished(self) -> bool:
        """Whether it was tested."""
        return (self.folder / "results.json").is_file()

    @property
    def as_asked(self) -> bool:
        """Whether this command made it, with these YAML files, clips and tokenizer, as far as they are here.

        False where that is not known.
        """
        asked = _placeless(self._asked())
        noted = [_placeless(known) for known in self._noted()]
        return any(all(value in (None, known.get(key, value)) for key, value in asked.items()) for known in noted)

    @property
    def otherwise(self) -> bool:
        """Whether it is known that another command finished it, or other YAML files, clips or another tokenizer.

        Of a run that SLURM finished the command alone is known.
        """
        if self._noted():
            return not self.as_asked
        mine = shlex.join(_without_places(self.arguments))
        return any(mine not in shlex.join(_without_places(one["arguments"])) for one in self._began_by())

    def _noted(self) -> list[dict[str, Any]]:
        """What ``note`` kept; of earlier revisions a single one; none of a damaged file."""
        file = self.folder / "asked.json"
        try:
            known: Any = json.loads(file.read_text()) if file.is_file() else []
        except ValueError:
            return []
        return known if isinstance(known, list) else [known]

    def _began_by(self) -> list[dict[str, Any]]:
        """What the run itself kept of the command that last worked at it: its arguments alone."""
        commands = starts(self.folder).get("command", [])
        return [{"arguments": shlex.split(command)[2:]} for command in commands[-1:]]  # behind "skeleton-llm fit"

    def note(self, *, compared: bool = False) -> None:
        """Keep by what it was finished; or, ``compared``, that this command was found to make the same."""
        before = (self._noted() or self._began_by()) if compared else []
        write_whole(self.folder / "asked.json", json.dumps([*before, self._asked()], indent=1))

    @property
    def dataset(self) -> Path | None:
        """The folder of the prepared dataset that its arguments name, or else the last of its YAML files that does."""
        folders = values(self.arguments, "--data.init_args.folder") or values(self.arguments, "--data.folder")
        folders = folders or [folder for body in self._configs() if (folder := _folder_in(body))]
        return Path(folders[-1]) if folders else None

    def _configs(self) -> list[bytes]:
        return [Path(path).read_bytes() for path in values(self.arguments, "--config")]

    def _asked(self) -> dict[str, Any]:
        data = self.dataset
        read = self.needs and self.needs.folder / "tokenizer/model.safetensors"
        return {
            "arguments": list(self.arguments),
            "configs": [_digest(body) for body in self._configs()],
            "data": _content_hash(data / "dataset.json") if data else None,
            "tokenizer": _digest(read.read_bytes()) if read and read.is_file() else None,
        }


def values(arguments: Sequence[str], key: str) -> list[str]:
    """All that are given for ``key``, behind it or after its sign of equality."""
    pairs = zip(arguments, (*arguments[1:], ""), strict=False)
    return [given.partition("=")[2] or value for given, value in pairs if given.partition("=")[0] == key]


def _without_places(arguments: Sequence[str]) -> list[str]:
    """Without the paths of YAML files, which are known by their text, wherever the shipped ones are installed."""
    return [given for before, given in zip(("", *arguments), arguments, strict=False) if before != "--config"]


def _placeless(asked: dict[str, Any]) -> dict[str, Any]:
    return {**asked, "arguments": _without_places(asked["arguments"])}


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@cache
def _folder_in(config: bytes) -> str | None:
    given = (yaml.safe_load(config) or {}).get("data") or {}
    return (given.get("init_args") or {}).get("folder")


def _content_hash(about: Path) -> str | None:
    """None where the dataset is not here."""
    return json.loads(about.read_text()).get("content_hash") if about.is_file() else None


@dataclass(frozen=True)
class Planned:
    """A cell with one seed: for each of its rounds the runs by their names."""

    cell: Cell
    seed: int
    rounds: tuple[dict[str, Run], ...]

    @property
    def name(self) -> str:
        """As in the folder of runs."""
        return f"{self.cell.name}/seed{self.seed}"

    @property
    def wanted(self) -> bool:
        """Whether the cell has as many seeds; of one that repeats itself, further seeds run only by name."""
        return self.cell.seeds is None or self.seed < self.cell.seeds

    def owns(self, run: Run) -> bool:
        """Whether the run lies with it, and is none that it reads from another cell's folder."""
        return f"/{self.name}/" in f"/{run.folder.as_posix()}/"

    @property
    def begun(self) -> bool:
        """Whether a run of its own is there."""
        return any(run.folder.is_dir() for run in self.runs if self.owns(run))

    @property
    def runs(self) -> list[Run]:
        """All of them; some may lie in another cell's folder."""
        return [run for runs in self.rounds for run in runs.values()]

    @property
    def finished(self) -> bool:
        """Whether all its runs are."""
        return all(run.finished for run in self.runs)


def plan(matrix: Matrix, seeds: Sequence[int], setting: Setting) -> list[Planned]:
    """All cells with all seeds, seed by seed, so that whole tables come early.

    Runs of equal configs and tokenizers are one run, which lies with the first cell that has it.
    """
    planned = []
    for seed in seeds:
        known: dict[tuple[str, ...], Run] = {}
        for cell in matrix.cells.values():
            overlays: list[str | None] = [*cell.rounds] or [None]
            if setting.quick:
                overlays = overlays[: matrix.quick["rounds"]]
            rounds = []
            for overlay in overlays:
                made: dict[str, Run] = {}
                place = setting.folder / cell.name / f"seed{seed}" / (Path(overlay).name if overlay else "")
                for name, configs in cell.runs.items():
                    if setting.quick and name not in (TOKENIZER, cell.answer, *cell.ensemble):
                        continue  # it answers for nothing
                    own = [*configs, *([overlay] if overlay else []), *(cell.quick if setting.quick else ())]
                    chosen = _overlays(matrix, setting, name, [one for one in own if not one.startswith("--")])
                    extra = tuple(one for one in own if one.startswith("--"))
                    tokenizer = None if name == TOKENIZER else made.get(TOKENIZER)
                    key = (*chosen, *extra, str(tokenizer and tokenizer.folder))
                    if key not in known:
                        given = _arguments(setting, configs[0], chosen, place / name, tokenizer, seed)
                        known[key] = Run(place / name, (*given, *extra, *setting.more), tokenizer)
                    made[name] = known[key]
                rounds.append(made)
            planned.append(Planned(cell, seed, tuple(rounds)))
    return planned


def unique_runs(planned: Iterable[Planned]) -> list[Run]:
    """Every run once, what others wait for before them."""
    found: dict[Path, Run] = {}
    for one in planned:
        for run in one.runs:
            for needed in (run.needs, run):
                if needed is not None:
                    found.setdefault(needed.folder, needed)
    return list(found.values())


def _overlays(matrix: Matrix, setting: Setting, name: str, configs: Sequence[str]) -> tuple[str, ...]:
    """All configs as files: the base, the data's, the user's, then what makes the cell.

    Only arguments stand behind and overrule that: the language model's name, the cell's own and, last, those of
    ``Setting.more``.
    """
    base, *own = configs
    quick = [*matrix.quick["every"], *(matrix.quick[TOKENIZER] if name == TOKENIZER else ())] if setting.quick else []
    shipped = [setting.shipped / f"{one}.yaml" for one in (base, f"data/{setting.data}", *quick, *own)]
    given = [Path(one) for one in (*setting.overlays, *setting.of_base.get(base, ()))]
    return tuple(as_typed(path) for path in (*shipped[:2], *given, *shipped[2:]))


def _arguments(
    setting: Setting, base: str, configs: Sequence[str], folder: Path, tokenizer: Run | None, seed: int
) -> tuple[str, ...]:
    given = [part for path in configs for part in ("--config", path)]
    given += ["--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
    if setting.llm is not None and base in _WITH_LLM:
        given += ["--model.init_args.llm.name", setting.llm]
    if tokenizer is not None:
        given += ["--model.init_args.tokenizer", as_typed(tokenizer.folder / "tokenizer")]
    return (*given, "--trainer.default_root_dir", as_typed(folder), "--trainer.enable_progress_bar", "false")


def as_typed(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_absolute() and path.is_relative_to(here) else str(path)
