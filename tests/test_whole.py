"""Files survive kills at any byte, full disks and read-only folders."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from callbacks import AtomicCheckpointIO
from skeleton_llm.whole import whole, write_whole

WRITER = """
import sys
from pathlib import Path
from skeleton_llm.whole import whole
print("ready", flush=True)
for turn in range(1, 1000):
    with whole(Path(sys.argv[1])) as file:
        for _ in range(64):
            file.write(bytes([turn % 256]) * 16384)
"""


def test_a_kill_at_any_byte_leaves_one_version_whole(tmp_path):
    path, seen = tmp_path / "a.ckpt", set()
    path.write_bytes(bytes(1 << 20))
    for turn in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.003 * turn)
        writer.kill()
        writer.communicate()
        content = path.read_bytes()
        assert content == content[:1] * (1 << 20)
        seen.add(content[0])
    assert len(seen) > 1
    write_whole(path, "last")  # what the killed ones left is removed by the next
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


@contextmanager
def full_after(size: int):
    """No file of this process may become larger, as though the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_is_intact(tmp_path):
    path, writer = tmp_path / "step=1.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"weights": torch.zeros(10)}, path)
    with (
        full_after(10_000),
        pytest.raises(OSError, match=r"step=1\.ckpt: the checkpoint could not be written \(File too"),
    ):
        writer.save_checkpoint({"weights": torch.ones(100_000)}, path)
    assert torch.load(path, weights_only=True)["weights"].equal(torch.zeros(10))
    assert [file.name for file in tmp_path.iterdir()] == ["step=1.ckpt"]


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        AtomicCheckpointIO().save_checkpoint({"bad": Unwritable()}, tmp_path / "a.ckpt")


class Code:
    def __reduce__(self):
        return os.mkdir, (self.trap,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    code = Code()
    code.trap = str(tmp_path / "trap")
    torch.save({"global_step": 9, "code": code}, tmp_path / "step=9.ckpt")
    with pytest.raises(ValueError, match=r"step=9\.ckpt holds more than tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "step=9.ckpt", weights_only=False)
    assert not (tmp_path / "trap").exists()


def test_only_the_owner_of_a_name_loses_what_was_half_written_for_it(tmp_path):
    other = tmp_path / ".b[1].ckpt.77.tmp"
    other.write_text("half")
    with whole(tmp_path / "b1.ckpt") as file:
        file.write(b"whole")
    assert other.exists()
    write_whole(tmp_path / "b[1].ckpt", "whole")
    assert not other.exists()
