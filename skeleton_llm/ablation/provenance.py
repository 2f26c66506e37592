"""The report's last sections: what is not finished, and how each cell was made."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from skeleton_llm.ablation.document import Heading, Listing, Part, Table, Text
from skeleton_llm.ablation.findings import Finding, config, config_digest, facts
from skeleton_llm.ablation.runs import Planned, Setting, as_typed
from skeleton_llm.dotted import flat

_OWN = ("seed_everything", "trainer.default_root_dir", "data.init_args.seed", "model.init_args.tokenizer")
_RECIPE = ("model.", "data.", "trainer.max_steps", "trainer.accumulate_grad_batches")
_ABSENT = "(absent)"


def unfinished(planned: Sequence[Planned], problems: Sequence[str]) -> list[Part]:
    """What the table still lacks, and what is finished but cannot be read."""
    rows, untouched = [], dict[str, list[str]]()
    for one in planned:
        if one.finished:
            continue
        if one.begun:
            left = [as_typed(run.folder) for run in one.runs if not run.finished]
            rows.append([f"`{one.name}`", ", ".join(f"`{folder}`" for folder in left)])
        else:
            untouched.setdefault(one.cell.name, []).append(str(one.seed))
    parts: list[Part] = [Text(f"Not read: {problem}") for problem in problems]
    parts += [Table(["cell", "runs without results"], rows, left=2)] if rows else []
    if untouched:
        said = (
            f"`{name}` (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" for name, seeds in untouched.items()
        )
        parts.append(Text(f"Not begun: {', '.join(said)}."))
    return [Heading("Not finished"), *parts] if parts else []


def recipe_differs(finding: Finding | None, recipes: Mapping[str, Path]) -> list[Part]:
    """What the paper's presets, a YAML for each kind of run, say otherwise than a cell's runs of the first seed."""
    rows = []
    runs = {} if finding is None else finding.planned[finding.seeds[0]].rounds[0]
    for kind, preset in recipes.items():
        given = flat(config(runs[kind])) if kind in runs else {}
        wanted = flat(yaml.safe_load(preset.read_text())) if given else {}
        for key, value in wanted.items():
            if key.startswith(_RECIPE) and given.get(key) != value:
                rows.append([kind, f"`{key}`", f"`{value}`", f"`{given.get(key, _ABSENT)}`"])
    if not rows:
        return []
    said = (
        "Keys of the presets "
        + ", ".join(f"`{preset.name}`" for preset in recipes.values())
        + " that runs here change."
    )
    return [
        Heading("What differs from the paper's recipe"),
        Text(said),
        Table(["run", "key", "preset", "here"], rows, left=4),
    ]


def made_otherwise(found: dict[str, Finding]) -> list[str]:
    """Cells with a run that another command or other YAML files finished than those the report was asked with."""
    runs = {name: [run for one in finding.planned.values() for run in one.runs] for name, finding in found.items()}
    return [name for name in found if any(run.otherwise for run in runs[name])]


def made_by(found: dict[str, Finding], setting: Setting, otherwise: Sequence[str]) -> list[Part]:
    """Config, seed, revision, data and command of every run; ``otherwise`` are the cells of ``made_otherwise``."""
    parts: list[Part] = [Heading("How each cell was made")]
    configs = _Configs()
    for name, finding in found.items():
        said = "Made by other options than this report was asked with: by the commands of its runs, below."
        if name not in otherwise:
            said = f"`{_command(name, finding, setting)}`"
        parts += [Heading(f"{name}: {finding.cell.title}", 3), Text(said)]
        parts += configs.of(finding)
        for seed in finding.seeds:
            for run in finding.planned[seed].runs:
                about = facts(run)
                lines = [f"folder: {as_typed(run.folder)}", f"config.yaml: {config_digest(run)}"]
                lines += [f"{key}: {about.get(key, 'unknown')}" for key in ("seed", "revision", "data", "started")]
                place = run.folder.relative_to(setting.folder).as_posix()
                parts.append(Listing(place, "\n".join([*lines, about.get("command", "")])))
    return parts


def _command(name: str, finding: Finding, setting: Setting) -> str:
    """That makes the cell again."""
    given = ["--data", setting.data, "--folder", as_typed(setting.folder)]
    given += [part for path in setting.overlays for part in ("--config", path)]
    for base, paths in setting.of_base.items():
        given += [part for path in paths for part in (f"--{base}", path)]
    given += ["--llm", setting.llm] if setting.llm else []
    given += ["--quick"] if setting.quick else []
    given += ["--matrix", as_typed(setting.matrix)] if setting.matrix else []
    given += ["--seeds", str(max(finding.seeds) + 1)]
    whole = finding.seeds == [*range(len(finding.seeds))] and all(one.wanted for one in finding.planned.values())
    given += ["--cells", name] if whole else ["--only", *(f"{name}/seed{seed}" for seed in finding.seeds)]
    given += setting.more
    return f"skeleton-llm ablate {shlex.join(given)}"


class _Configs:
    """Of each kind of run one config whole, where it is met first; of the others what differs from that."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[str, dict[str, Any]]] = {}

    def of(self, finding: Finding) -> Iterator[Part]:
        """Of a cell's first seed; a run that lies with another cell stands there."""
        for rounds in finding.planned[finding.seeds[0]].rounds:
            for kind, run in rounds.items():
                place, given = as_typed(run.folder), config(run)
                mine = {key: value for key, value in flat(given).items() if key not in _OWN}
                first, other = self.first.setdefault(kind, (place, mine))
                if mine is other:
                    yield Listing(f"config of {place}", yaml.safe_dump(given, sort_keys=False))
                elif finding.planned[finding.seeds[0]].owns(run):
                    keys = [key for key in {**other, **mine} if mine.get(key, _ABSENT) != other.get(key, _ABSENT)]
                    lines = [f"{key}: {other.get(key, _ABSENT)} -> {mine.get(key, _ABSENT)}" for key in keys]
                    yield Listing(f"config of {place}, beside that of {first}", "\n".join(lines) or "the same")
