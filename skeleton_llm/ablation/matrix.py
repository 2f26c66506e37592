"""The table of ablations as YAML: which cells it has, which runs each cell is made of, what the paper says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TOKENIZER = "stage1"
"""The run whose tokenizer the other runs of its cell read."""
FULL = "full"
"""The cell that others are compared with, unless they name one."""
_CELL = ("title", "runs", "rounds", "seeds", "answer", "ensemble", "against", "quick", "paper", "source", "note")
_MATRIX = ("paper", "goals", "quick", "cells")
_GOAL = ("cell", "top1", "not_below")
_PAPER = ("title", "data", "llm", "poses", "answers", "recipe")
_QUICK = ("every", TOKENIZER, "rounds")


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes:
        runs: for each run its configs, the base first, as paths in ``configs/`` without ``.yaml``; what begins with
            ``--`` is an argument of the command.
        rounds: overlays with each of which all runs are made once (the draws of unseen classes); empty for one round.
        answer: the run whose test answers for the cell.
        ensemble: the runs whose scores together answer for it instead.
        against: the cell it is compared with; None for none.
        quick: the last overlays of its runs where they are to be quick.
        paper: what the paper measured, top-1 in percent, and ``source``, where it says so.
        note: what a reader of its number must know.
        seeds: how many run unless more are named, of a cell whose rounds repeat it already; None for all.
    """

    name: str
    title: str
    runs: Mapping[str, tuple[str, ...]]
    rounds: tuple[str, ...]
    answer: str
    ensemble: tuple[str, ...]
    against: str | None
    quick: tuple[str, ...]
    paper: float | None
    source: str
    note: str = ""
    seeds: int | None = None


class Goal(NamedTuple):
    """What the top-1 of ``cell`` is to reach, in percent, and the cells that it is not to fall below."""

    cell: str
    top1: float
    not_below: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """All cells; ``paper`` says on what the paper measured, ``quick`` what makes the runs seconds long.

    ``paper["recipe"]`` names for each kind of run a config with the paper's recipe, as a path like those of cells.

    ``goals`` are set before anything is run, by the name of the data.
    """

    cells: Mapping[str, Cell]
    paper: Mapping[str, Any]
    quick: Mapping[str, Any]
    goals: Mapping[str, Goal] = field(default_factory=dict)


def read_matrix(path: Path, configs: Path) -> Matrix:
    """Read and check a matrix, whose configs lie in ``configs``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it says something that cannot be; the sentence names file and key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such matrix; configs/ablations.yaml is the shipped one")
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    _known(path, given, _MATRIX, "")
    _known(path, given.get("paper", {}), _PAPER, "paper.")
    quick = {"every": [], TOKENIZER: [], "rounds": None, **given.get("quick", {})}
    _known(path, quick, _QUICK, "quick.")
    if quick["rounds"] is not None and quick["rounds"] < 1:
        raise ValueError(f"{path}: quick.rounds is how many rounds quick runs have, at least 1, got {quick['rounds']}")
    cells = {name: _cell(path, name, about) for name, about in (given.get("cells") or {}).items()}
    if not cells:
        raise ValueError(f"{path}: cells is empty; it needs at least one cell with title and runs")
    for cell in cells.values():
        if cell.against is not None and cell.against not in cells:
            raise ValueError(f"{path}: cells.{cell.name}.against names {cell.against!r}, which is no cell of it")
        if cell.against is not None and cells[cell.against].rounds != cell.rounds:
            raise ValueError(
                f"{path}: cells.{cell.name} has not the rounds of {cell.against}, the cell it is compared with;"
                f" set cells.{cell.name}.against to a cell of the same rounds, or to null"
            )
    goals = {data: _goal(path, data, about, cells) for data, about in (given.get("goals") or {}).items()}
    named = [one for cell in cells.values() for run in cell.runs.values() for one in run]
    named += [one for cell in cells.values() for one in (*cell.rounds, *cell.quick)]
    named += quick["every"] + quick[TOKENIZER] + [*(given.get("paper", {}).get("recipe") or {}).values()]
    for name in named:
        if not name.startswith("--") and not (configs / f"{name}.yaml").is_file():
            raise ValueError(f"{path}: there is no config {configs / name}.yaml; name one without .yaml")
    return Matrix(cells, given.get("paper", {}), quick, goals)


def _goal(path: Path, data: str, about: Any, cells: Mapping[str, Cell]) -> Goal:
    _known(path, about, _GOAL, f"goals.{data}.")
    if "top1" not in about:
        raise ValueError(f"{path}: goals.{data}.top1 is missing; say what its cell is to reach, in percent")
    if not isinstance(about.get("not_below", []), list):
        raise ValueError(f"{path}: goals.{data}.not_below must be a list of cells, got {about['not_below']!r}")
    goal = Goal(about.get("cell", FULL), float(about["top1"]), tuple(about.get("not_below", ())))
    for name in (goal.cell, *goal.not_below):
        if name not in cells:
            raise ValueError(f"{path}: goals.{data} names {name!r}, which is no cell of it")
        if cells[name].rounds != cells[goal.cell].rounds:
            raise ValueError(f"{path}: goals.{data} names {name!r}, which has not the rounds of {goal.cell}")
    return goal


def _cell(path: Path, name: str, about: Any) -> Cell:
    _known(path, about, _CELL, f"cells.{name}.")
    runs = {run: tuple(chosen) for run, chosen in (about.get("runs") or {}).items()}
    if not runs or not all(runs.values()) or "title" not in about:
        raise ValueError(f"{path}: cells.{name} needs a title and runs, each a list of configs")
    answer, ensemble = about.get("answer", [*runs][-1]), tuple(about.get("ensemble", ()))
    for run in (answer, *ensemble):
        if run not in runs:
            raise ValueError(f"{path}: cells.{name} answers by {run!r}, which is none of its runs {', '.join(runs)}")
    rounds = tuple(about.get("rounds", ()))
    if len({Path(one).name for one in rounds}) < len(rounds):
        raise ValueError(f"{path}: two of cells.{name}.rounds have the same name, and runs would share a folder")
    seeds = about.get("seeds")
    if seeds is not None and (type(seeds) is not int or seeds < 1):
        raise ValueError(f"{path}: cells.{name}.seeds is how many it has at most, at least 1, got {seeds!r}")
    paper = about.get("paper")
    if paper is not None and type(paper) not in (int, float):
        raise ValueError(f"{path}: cells.{name}.paper is the paper's top-1 in percent, a number, got {paper!r}")
    if paper is not None and not about.get("source"):
        raise ValueError(f"{path}: cells.{name}.paper is {paper}; say in cells.{name}.source where it stands")
    against = about.get("against", FULL)
    return Cell(
        name,
        about["title"],
        runs,
        rounds,
        answer,
        ensemble,
        None if against == name else against,
        tuple(about.get("quick", ())),
        None if paper is None else float(paper),
        about.get("source", ""),
        about.get("note", ""),
        seeds,
    )


def _known(path: Path, given: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{path}: {where.rstrip('.') or 'the file'} must be a mapping with keys of {', '.join(keys)}")
    for key in given:
        if key not in keys:
            raise ValueError(f"{path}: unknown key {where}{key}; it may have {', '.join(keys)}")
