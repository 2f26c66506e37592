"""``skeleton-llm ensemble``: the summed probabilities of finished runs on the same clips."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from skeleton_llm.metrics import SplitScores

_COLUMNS = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean of classes"}
_FEW = 5


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm ensemble",
        description="Add the probabilities of finished runs on the same clips, each times its weight: equal ones unless"
        " given beforehand (2 2 1 1 for joint, bone, motion and bone_motion is PYSKL's choice) or chosen on the"
        " validation clips.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each run")
    weights.add_argument("--choose", action="store_true", help="weights of 0 to 3 that validation clips like best")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser.parse_args(argv)


def ensemble(argv: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    arguments = _arguments(argv)
    try:
        found = {split: _read(arguments.runs, split) for split in ("val", "test")}
        weights = arguments.weights or [1.0] * len(arguments.runs)
        if arguments.choose:
            weights = _choose(found)
        rows = _rows(found, weights)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_table(rows))
    chosen = "chosen on the validation clips" if arguments.choose else "given beforehand"
    print(f"weights {' '.join(f'{weight:g}' for weight in weights)}, {chosen}")
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"weights": weights, "chosen": arguments.choose, "accuracy": rows}, indent=1)
        )
    return 0


def _read(runs: Sequence[Path], split: str) -> "dict[str, SplitScores]":
    """Every run's scores; none of a split that no run has."""
    from skeleton_llm.metrics.ensemble import check_alike, read_scores

    if split == "val" and not any((run / "scores/val.safetensors").is_file() for run in runs):
        return {}
    found = {str(run): read_scores(run / f"scores/{split}.safetensors") for run in runs}
    if len(found) < len(runs):
        raise ValueError("a run was named twice; give it a greater weight instead")
    check_alike(found)
    return found


def _choose(found: "Mapping[str, Mapping[str, SplitScores]]") -> list[float]:
    from skeleton_llm.metrics.ensemble import choose_weights

    if not found["val"]:
        raise ValueError("--choose wants validation clips, and the runs had none; give --weights")
    for run, scores in found["val"].items():
        then, now = scores.of["step"], found["test"][run].of["step"]
        if then != now:
            raise ValueError(
                f"{run} was validated last at step {then} but tested at {now}; run skeleton-llm validate in its folder"
            )
    return choose_weights([one.scores for one in found["val"].values()], next(iter(found["val"].values())).labels)


def _rows(
    found: "Mapping[str, Mapping[str, SplitScores]]", weights: Sequence[float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by run (and of the ensemble), split and measure."""
    from skeleton_llm.metrics.ensemble import ensemble as added

    rows: dict[str, dict[str, dict[str, float]]] = {}
    for split, runs in found.items():
        if not runs:
            continue
        scores = [one.scores for one in runs.values()]
        labels = next(iter(runs.values())).labels
        for name, one in zip([*runs, "ensemble"], [*scores, added(scores, weights)], strict=True):
            rows.setdefault(name, {})[split] = _accuracy(one, labels)
    return rows


def _accuracy(scores: "Tensor", labels: "Tensor") -> dict[str, float]:
    from skeleton_llm.metrics import MeanClassAccuracy

    classes = MeanClassAccuracy(scores.shape[1])
    classes.update(scores, labels)
    right = scores.topk(min(_FEW, scores.shape[1])).indices == labels[:, None]
    few = {"top5": float(right.any(1).float().mean())} if scores.shape[1] > _FEW else {}
    top1 = float((scores.argmax(-1) == labels).float().mean())
    return {"top1": top1, **few, "mean_class_accuracy": float(classes.compute())}


def _table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown, in percent."""
    splits = [split for split in ("val", "test") if split in rows["ensemble"]]
    columns = [(split, key) for split in splits for key in _COLUMNS if key in rows["ensemble"][split]]
    lines = [
        ["", *(f"{split} {_COLUMNS[key]}" for split, key in columns)],
        ["---", *["---:"] * len(columns)],
        *([name, *(f"{100 * row[split][key]:.1f}" for split, key in columns)] for name, row in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
