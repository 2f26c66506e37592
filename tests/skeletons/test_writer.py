import json
import subprocess
import sys
import time

import numpy as np
import pytest

import raw_clips
from benchmarks.torture.jobs import alive, children
from skeleton_llm.skeletons import Clip, DatasetWriter, PreparedDataset
from skeleton_llm.skeletons.writer import FILES


def clip(number: int) -> Clip:
    joints = np.random.default_rng(number).normal(size=(2 + number % 3, 1, 20, 3)).astype(np.float32)
    return Clip(joints, "kinect20", number % 2, source=f"clip{number}", splits={"own": number % 2})


def writer(folder, plan="a plan"):
    return DatasetWriter(folder, layout="kinect20", num_persons=2, plan=plan and {"items": plan})


def write(folder, *, begin=0, stop=6, plan="a plan"):
    with writer(folder, plan) as target:
        for number in range(target.table.done, stop):
            target.add([clip(number)], [{"file": f"bad{number}", "kind": "bad", "why": "x", "facts": {}}], items=1)
        if stop == 6:
            target.finish("own", ["a", "b"], "raw")
        return target.table.done


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("damage", [None, "torn line", "missing frames", "flipped frame"])
def test_an_interrupted_dataset_goes_on_and_ends_with_the_same_bytes(tmp_path, damage):
    write(tmp_path / "whole")
    write(tmp_path / "again", stop=4)
    part = tmp_path / ".again.part"
    assert not (tmp_path / "again").exists()
    if damage == "torn line":
        journal = part / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "missing frames":
        with (part / "frames.npy").open("r+b") as file:
            file.truncate(128 + 700)
    elif damage == "flipped frame":
        data = bytearray((part / "frames.npy").read_bytes())
        data[140] ^= 1
        (part / "frames.npy").write_bytes(data)
    with writer(tmp_path / "again") as target:
        assert target.table.done == {None: 4, "torn line": 3, "missing frames": 0, "flipped frame": 0}[damage]
    write(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "whole"]


def test_another_plan_starts_anew(tmp_path):
    write(tmp_path / "d", stop=4)
    with writer(tmp_path / "d", "other files") as target:
        assert target.table.done == 0
        assert target.table.frames == 0
    write(tmp_path / "d", plan="other files")
    assert len(PreparedDataset.open(tmp_path / "d")) == 6


def test_a_half_written_folder_is_no_dataset(tmp_path):
    write(tmp_path / "d", stop=4)
    with pytest.raises(FileNotFoundError, match=r"dataset\.json is missing"):
        PreparedDataset.open(tmp_path / ".d.part")
    with pytest.raises(FileNotFoundError):
        PreparedDataset.open(tmp_path / "d")


def test_an_old_dataset_stays_whole_until_the_new_one_is(tmp_path):
    write(tmp_path / "d")
    before = contents(tmp_path / "d")
    write(tmp_path / "d", stop=4, plan="new")
    assert contents(tmp_path / "d") == before


def test_a_kill_between_the_old_names_going_and_the_new_ones_coming_loses_nothing(tmp_path):
    write(tmp_path / "d")
    before = contents(tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / ".d.old")
    write(tmp_path / "d", stop=2, plan="new")
    assert contents(tmp_path / "d") == before


def test_two_processes_do_not_write_one_dataset(tmp_path):
    with writer(tmp_path / "d"), pytest.raises(ValueError, match="another process is preparing"):
        writer(tmp_path / "d")


def test_facts_halves_and_what_was_left_out_are_kept(tmp_path):
    write(tmp_path / "d")
    data = PreparedDataset.open(tmp_path / "d")
    assert data.table["test:own"].tolist() == [0, 1, 0, 1, 0, 1]
    assert data.table["subject"].tolist() == [-1] * 6
    assert [entry["file"] for entry in data.info["left_out"]] == [f"bad{i}" for i in range(6)]
    np.testing.assert_array_equal(data.clip(3).joints[:, 0], clip(3).joints[:, 0])
    assert not data.clip(3).joints[:, 1].any()
    assert np.load(tmp_path / "d" / "frames.npy").shape == (sum(2 + i % 3 for i in range(6)), 2, 20, 3)


def descendants(process: int) -> list[int]:
    """Of a process and of all that it started."""
    return [one for child in children(process) for one in (child, *descendants(child))]


def test_prepare_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(600):
        name = f"S001C{1 + number % 3:03d}P{1 + number // 180:03d}R{1 + number // 3 % 2:03d}A{1 + number // 6 % 30:03d}"
        (raw / f"{name}.skeleton").write_text(raw_clips.ntu_text(3, seed=number))
    (raw / "S001C001P001R001A001.skeleton").write_text("1\n")

    def command(out, *more):
        words = ["prepare", "ntu60", "--raw", str(raw), "--out", str(tmp_path / out), "--partial", "--allow-bad", *more]
        return [sys.executable, "-m", "skeleton_llm.cli.main", *words]

    done = subprocess.run(command("whole", "--workers", "1"), check=True, capture_output=True, text=True)
    assert "598 clips of 60 classes" in done.stdout
    journal = tmp_path / ".killed.part" / "journal.jsonl"
    with subprocess.Popen(command("killed", "--workers", "2"), stderr=subprocess.DEVNULL) as process:
        while not (journal.is_file() and journal.stat().st_size):
            time.sleep(0.002)
        started = descendants(process.pid)
        process.kill()
    assert len(started) >= 2
    deadline = time.monotonic() + 30
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, started))
    assert not (tmp_path / "killed").exists()
    done = subprocess.run(command("killed", "--workers", "2"), check=True, capture_output=True, text=True)
    assert "going on after" in done.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert json.loads((tmp_path / "killed" / "dataset.json").read_text())["accepted"]["ntu60_xsub"] == [1, 0]
