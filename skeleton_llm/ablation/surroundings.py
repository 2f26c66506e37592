"""What the runs of a table stand on: data, language model, machines, revisions."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skeleton_llm.ablation.findings import Finding, config, facts
from skeleton_llm.ablation.runs import Run
from skeleton_llm.language import LanguageModel
from skeleton_llm.metrics import read_scores
from skeleton_llm.skeletons import PreparedDataset, find_layout, find_protocol
from skeleton_llm.skeletons.proof import seen_in_training

_FACTS = ("revision", "data", "machine", "versions")


@dataclass(frozen=True)
class Surroundings:
    """Facts that every run shares, or a sentence on where they differ.

    Attributes:
        data, llm, poses, views: in words, as the report shows them beside the paper's.
        repeated: rows of test clips whose joints are those of a training clip; None where the dataset is not here.
        shared: revision, data hash, machine and versions of all runs, each distinct one.
    """

    data: str
    llm: str
    poses: str
    views: str
    repeated: np.ndarray | None
    shared: dict[str, list[str]]

    @classmethod
    def look(cls, found: dict[str, Finding]) -> "Surroundings":
        """At the runs of all finished cells."""
        runs = list(finished_runs(found.values()))
        known = [facts(run) for run in runs]
        shared = {name: list(dict.fromkeys(one.get(name, "unknown") for one in known)) for name in _FACTS}
        given = config(runs[0])["data"]["init_args"]
        folder, protocol = Path(given["folder"]), given["protocol"]
        try:
            data = PreparedDataset.open(folder)
            train, test = find_protocol(protocol, data.info["name"]).split(data.table)
        except (OSError, ValueError):
            about = f"{known[0].get('dataset', folder.name)}, {protocol} (the prepared dataset is not here any more)"
            return cls(about, _language_model(runs), "not known here", _views(given), None, shared)
        layout = find_layout(data.info["layout"])
        about = f"{data.info['name']}, {protocol}: {len(train):,} training and {len(test):,} test clips"
        poses = f"{'2D' if layout.planar else '3D'}, {layout.num_joints} joints ({data.info['layout']})"
        repeated = seen_in_training(data.digests, train, test)
        return cls(about, _language_model(runs), poses, _views(given), repeated, shared)


def _views(given: dict[str, Any]) -> str:
    """How many views of a clip are answered together."""
    asked = given.get("preprocess") or {}
    count = (1 + len(asked.get("turns") or [])) * (1 + bool(asked.get("mirrored")))
    return "one view" if count == 1 else f"{count} views"


def finished_runs(found: Iterable[Finding]) -> Iterable[Run]:
    """Every run of the finished cells once."""
    seen: dict[Path, Run] = {}
    for finding in found:
        for planned in finding.planned.values():
            for run in planned.runs:
                seen.setdefault(run.folder, run)
    return seen.values()


def class_names(finding: Finding) -> list[str]:
    """As its test wrote them."""
    planned = next(iter(finding.planned.values()))
    scores = read_scores(planned.rounds[0][finding.cell.answer].folder / "scores/test.safetensors")
    return json.loads(scores.of["class_names"])


def _language_model(runs: Iterable[Run]) -> str:
    """Name and size of the first that is trained; a table has one."""
    for run in runs:
        llm: dict[str, Any] = config(run)["model"]["init_args"].get("llm") or {}
        if "name" in llm and not llm.get("untrained"):
            try:
                outline = LanguageModel(llm["name"], llm.get("revision")).outline()
            except (OSError, ValueError):
                return f"{llm['name']} (not here any more)"
            return f"{llm['name']}, {sum(weight.numel() for weight in outline.parameters()):,} weights"
    return "none"
