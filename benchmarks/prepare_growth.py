"""Time and peak memory of ``skeleton-llm prepare`` as the number of raw NTU files grows.

python -m benchmarks.prepare_growth FOLDER [COUNT ...]     (FOLDER on a disk with 0.3 MB a file to spare)
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.raw_text import write_files

_COUNTS = (2_500, 5_000, 10_000, 20_000)
_NTU120 = 114_480
_EVERY = 0.05


def _memory(root: int) -> tuple[int, int]:
    """Bytes that the process and all its children hold, each shared page counted once (PSS), and the largest RSS."""
    total, largest, waiting = 0, 0, [root]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            rollup = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
            total += int(rollup["Pss"].split()[0]) * 1024
            largest = max(largest, int(rollup["Rss"].split()[0]) * 1024)
            for task in (process / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, KeyError):
            continue
    return total, largest


def measure(raw: Path, out: Path) -> tuple[float, int, int]:
    """Seconds, peak bytes of all processes, and peak bytes of the largest one."""
    command = [sys.executable, "-m", "skeleton_llm.cli.main", "prepare", "ntu60", "--raw", str(raw), "--out", str(out)]
    begin, peak, largest = time.perf_counter(), 0, 0
    with subprocess.Popen([*command, "--partial"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            now, one = _memory(process.pid)
            peak, largest = max(peak, now), max(largest, one)
            time.sleep(_EVERY)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}")
    return time.perf_counter() - begin, peak, largest


def main() -> None:
    """Print a row for each count, and what the last two rows mean at NTU 120's size."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir())
    counts = [int(word) for word in sys.argv[2:]] or list(_COUNTS)
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        print(f"{'files':>8}{'seconds':>10}{'ms a file':>11}{'peak MiB':>10}{'largest process MiB':>21}")
        for count in counts:
            raw = Path(place) / f"raw{count}"
            raw.mkdir()
            write_files(raw, count)
            seconds, peak, largest = measure(raw, Path(place) / "out")
            rows.append((count, seconds, peak))
            print(
                f"{count:8,}{seconds:10.1f}{1000 * seconds / count:11.2f}{peak / 2**20:10.0f}{largest / 2**20:21.0f}",
                flush=True,
            )
            shutil.rmtree(raw)
    if len(rows) > 1:
        (first, quick, small), (last, slow, large) = rows[0], rows[-1]
        share = (_NTU120 - last) / (last - first)
        print(
            f"on the line through the first and the last row, NTU 120's {_NTU120:,} files take"
            f" {slow + share * (slow - quick):.0f} s and {(large + share * (large - small)) / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    main()
