"""What a run's folder tells of it: its results, and on what, where and by which commands it was made."""

import json
from pathlib import Path


def results(run: Path) -> dict[str, float]:
    """What its test measured.

    Raises:
        FileNotFoundError: it has not been tested.
        ValueError: the file is damaged.
    """
    path = run / "results.json"
    try:
        found: dict[str, float] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON any more; remove it and give the command again") from error
    return found


def starts(run: Path) -> dict[str, list[str]]:
    """What ``environment.txt`` says of each of the run's starts, in their order; empty without that file."""
    file = run / "environment.txt"
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        key, colon, value = line.partition(": ")
        if colon:
            found.setdefault(key, []).append(value)
    return found


def run_facts(run: Path) -> dict[str, str]:
    """The same as one line each; where a run was resumed under other circumstances, one after the other."""
    return {key: ", then ".join(dict.fromkeys(values)) for key, values in starts(run).items()}
