"""Folders on small disks of their own, which can be full or read-only, and are mended afterwards."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.torture.interruptions import can_mount

_SIZE = "48m"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """``folder`` on a disk of its own, where that can be; it is gone afterwards."""
    folder.mkdir(parents=True)
    mounted = can_mount()
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


def mend(folder: Path) -> None:
    """Room, and leave to write, for the run in ``folder`` again."""
    (folder.parent / "ballast").unlink(missing_ok=True)
    if can_mount():
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)  # where it is read-only
        return
    for path in (folder, *folder.rglob("*/")):
        path.chmod(0o755)
