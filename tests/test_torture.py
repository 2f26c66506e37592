"""The bench itself: what it draws, what it complains of, what it sees; a round of it is a slow test."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.torture import interruptions, runs
from benchmarks.torture.ends import differences
from benchmarks.torture.interruptions import Interruption, Reference, complaints, draw
from benchmarks.torture.jobs import Ended
from benchmarks.torture.runs import ROOT

COUNTS = {"action": 3000, "write": 5, "rename": 8, "renamed": 8}


def drawn(seed, rounds=300):
    rng = Random(seed)
    reference = Reference(Path("whole"), COUNTS, 800_000, 10.0)
    return [draw(rng, runs.draw(rng), reference, rng.randrange(-1, 6)) for _ in range(rounds)]


def test_a_seed_draws_the_same_interruptions_of_every_kind(monkeypatch):
    monkeypatch.setattr(interruptions, "can_mount", lambda: True)
    monkeypatch.setattr(interruptions, "can_make_read_only", lambda: True)
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    acts = {trap.act for one in drawn(3) for traps in one.traps.values() for trap in traps}
    assert acts == {"kill", "signal", "signal all", "kill a worker", "fill", "read only"}
    blows = [blow for one in drawn(3) for blow in one.blows]
    assert {blow.number for blow in blows} == {signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}
    assert {blow.rank for blow in blows} == {0, 1}


@pytest.mark.parametrize(
    ("met", "codes", "finished", "wrong"),
    [
        ([("signal", signal.SIGUSR1, "here")], [85, 85], False, None),
        ([("signal", signal.SIGUSR1, "here")], [0, 0], True, None),
        ([("signal", signal.SIGTERM, "here")], [0, 0], False, "ended with [0, 0]"),  # Lightning's own answer
        ([("signal", signal.SIGINT, "here")], [85, 1], False, "ended with [85, 1]"),
        ([("kill", 0, "here")], [-9, 1], False, None),
        ([("kill", 0, "here")], [-9, 0], False, None),  # it had nothing left to do
        ([("kill", 0, "here")], [0, -9], False, "ended with [0, -9]"),
        ([("kill", 0, "here")], [-9, 85], False, "ended with [-9, 85]"),
        ([("fill", 0, "here")], [2, 1], False, None),
        ([("fill", 0, "here")], [85, 85], False, "ended with [85, 85]"),
        ([], [0, 0], True, None),
        ([], [1, 1], False, "untouched, it ended with [1, 1]"),
    ],
)
def test_what_a_run_makes_of_an_interruption_is_judged(met, codes, finished, wrong):
    found = complaints(Interruption("any"), Ended(codes, 1.0, met, said="error: no room"), finished)
    assert (found == []) if wrong is None else (len(found) == 1 and found[0].startswith(wrong))


def test_a_full_disk_without_a_sentence_and_a_run_that_hung_are_complained_of():
    met = [("fill", 0, "here")]
    said = "Traceback (most recent call last):\nOSError"
    found = complaints(Interruption("disk full"), Ended([1], 1.0, met, said=said), finished=False)
    assert found == ["no sentence said why it ended", "a traceback was printed"]
    assert complaints(Interruption("disk full"), Ended([-9], 1.0, met, hung=True), finished=False)[0].startswith("hung")


def test_a_signal_before_the_flag_is_there_may_kill():
    early = Ended([-signal.SIGUSR1], 1.0, struck=[(0, signal.SIGUSR1, False)])
    late = Ended([-signal.SIGUSR1], 1.0, struck=[(0, signal.SIGUSR1, True)])
    assert complaints(Interruption("by the clock", whole=True), early, finished=False) == []
    assert complaints(Interruption("by the clock", whole=True), late, finished=False) != []


def write_run(folder, *, weight=1.0, average=0.5, top1=0.25, curve=(0.3, 0.2), purge=None):
    (folder / "checkpoints").mkdir(parents=True)
    saved = {"state_dict": {"weight": torch.tensor([weight, torch.nan])}, "optimizer_states": [{"average": average}]}
    for name in ("step=6.ckpt", "best.ckpt"):
        torch.save(saved, folder / "checkpoints" / name)
    (folder / "results.json").write_text(json.dumps({"test/top1": top1}))
    with SummaryWriter(str(folder), purge_step=purge) as writer:
        for step, value in enumerate(curve):
            writer.add_scalar("train/loss", value, step)
    return folder


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        ({}, None),
        ({"weight": 1.0 + 2**-23}, ".state_dict.weight has other numbers"),  # the last bit
        ({"average": 0.25}, ".optimizer_states.0.average is 0.5 and 0.25"),
        ({"top1": 0.5}, "results.json: .test/top1"),
        ({"curve": (0.3, 0.25)}, "TensorBoard: .train/loss.1.1"),
        ({"curve": (0.3,)}, "TensorBoard: .train/loss"),
    ],
)
def test_ends_that_differ_in_anything_are_seen(tmp_path, other, seen):
    found = differences(write_run(tmp_path / "one"), write_run(tmp_path / "other", **other))
    assert (found == []) if seen is None else any(seen in line for line in found)


def test_doubled_steps_are_seen(tmp_path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    with SummaryWriter(str(other), filename_suffix=".again") as writer:
        writer.add_scalar("train/loss", 0.2, 1)
    assert any("TensorBoard: .train/loss" in line for line in differences(one, other))


@pytest.mark.slow
def test_a_round_ends_as_if_nothing_had_been(tmp_path):
    command = [sys.executable, "-m", "benchmarks.torture", "1", "--seed", "0", "--keep", str(tmp_path / "kept")]
    known = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=known, timeout=1400)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 bit-identical ends, 0 complaints" in done.stdout
