"""What a finished run leaves to read: where it stands on, what it measured, what comes next."""

import csv
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from skeleton_llm.run_folder import results


def environment(facts: dict[str, Any]) -> str:
    """What a run stands on, a line each: time, revision, versions, machine, and what ``facts`` adds."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    git = shutil.which("git") and subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    names = ("torch", "lightning", "transformers", "peft", "numpy")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    known = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": git.stdout.strip() if git else "unknown",
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "machine": f"{platform.platform()}, {machine}",
    }
    return "".join(f"{name}: {value}\n" for name, value in {**known, **facts}.items()) + "\n"


def summary(folder: Path) -> str:
    """Test results of a finished run as a few lines."""
    lines = [f"finished: {folder}"]
    measured = sorted(results(folder).items())
    lines += [f"  {name:<32}{value:10.4f}" for name, value in measured if name.startswith("test/")]
    lines += _most_confused(folder / "test_confused.csv")
    if (folder / "tokenizer").is_dir():
        lines.append(f"action tokenizer: {folder / 'tokenizer'}; next: make stage2 with the same DATA, RUN and LLM")
    if (folder / "recognizer").is_dir():
        lines.append(
            f"recogniser: {folder / 'recognizer'}; next: skeleton-llm recognize FILE --model {folder / 'recognizer'}"
        )
    return "\n".join(lines)


def _most_confused(table: Path) -> list[str]:
    """The first five pairs of classes, where the test left such a table."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        pairs = [
            f"  {row['truth']} -> {row['answer']}: {row['clips']} clips, {100 * float(row['share']):.0f} % of the class"
            for row in islice(csv.DictReader(file), 5)
        ]
    return ["most often confused:", *pairs] if pairs else []
