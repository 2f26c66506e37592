"""Many runs side by side, with a command that stands in for ``skeleton-llm fit``."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from skeleton_llm.ablation import Crew, Run, Slot, divide
from skeleton_llm.ablation.slots import _lock

FAKE = """
import json, os, signal, sys, time
from pathlib import Path

folder, behaviour = Path(sys.argv[1]), sys.argv[2]
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
with (folder / "begun.txt").open("a") as file:
    file.write(f"{time.time()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ['OMP_NUM_THREADS']}\\n")
if behaviour == "fail":
    print("a page of text\\nerror: it cannot be")
    sys.exit(2)
if behaviour == "other":
    print(f"error: {folder} holds a run with another config: a (1 -> 2); give it the old values, another RUN=")
    sys.exit(2)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "ready").touch()
    time.sleep(60)
if behaviour == "long" and not (folder / "checkpoints/step=1.ckpt").exists():
    def save(number, frame):
        (folder / "checkpoints/step=1.ckpt").touch()
        sys.exit(85)
    signal.signal(signal.SIGTERM, save)
    (folder / "ready").touch()
    time.sleep(60)
if behaviour == "nothing":
    sys.exit(0)
time.sleep(0.3)
with (folder / "begun.txt").open("a") as file:
    file.write(f"{time.time()}\\n")
(folder / "results.json").write_text(json.dumps({"test/top1": 0.5}))
"""


@pytest.fixture
def fake(tmp_path) -> list[str]:
    (tmp_path / "fake.py").write_text(FAKE)
    return [sys.executable, str(tmp_path / "fake.py")]


@pytest.fixture
def crew(fake):
    said: list[str] = []
    made = Crew([Slot({"OMP_NUM_THREADS": "1"})] * 2, said.append, fake)
    made.said = said
    return made


def run(folder: Path, behaviour: str = "well", needs: Run | None = None) -> Run:
    return Run(folder, (str(folder), behaviour), needs)


def begun(one: Run) -> list[str]:
    path = one.folder / "begun.txt"
    return path.read_text().splitlines() if path.is_file() else []


def when_ready(folders: list[Path], act) -> threading.Thread:
    def watch():
        while not all((folder / "ready").exists() for folder in folders):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_all_runs_come_to_their_end_two_at_a_time_and_none_twice(crew, tmp_path):
    runs = [run(tmp_path / name) for name in "abcd"]
    crew.work(runs)
    assert not crew.failed
    assert all(one.finished and one.as_asked for one in runs)
    spans = sorted((float(begun(one)[0].split()[0]), float(begun(one)[1])) for one in runs)
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == 2
    before = [begun(one) for one in runs]
    crew.work(runs)
    assert [begun(one) for one in runs] == before
    assert "4 of 4 runs are finished" in crew.said[-1]


def test_a_run_waits_for_the_tokenizer_it_reads(crew, tmp_path):
    first = run(tmp_path / "stage1")
    second = run(tmp_path / "stage2", needs=first)
    crew.work([second, first])
    assert float(begun(second)[0].split()[0]) >= float(begun(first)[1])


def test_a_run_that_fails_is_told_with_its_last_line_and_stops_no_other(crew, tmp_path):
    bad, good = run(tmp_path / "bad", "fail"), run(tmp_path / "good")
    after = run(tmp_path / "after", needs=bad)
    silent = run(tmp_path / "silent", "nothing")
    crew.work([bad, after, silent, good])
    assert good.finished
    assert set(crew.failed) == {bad.folder, after.folder, silent.folder}
    assert "ended with exit code 2: error: it cannot be" in crew.failed[bad.folder]
    assert str(bad.folder / "log.txt") in crew.failed[bad.folder]
    assert f"not begun, since {bad.folder} failed" in crew.failed[after.folder]
    assert "ended with exit code 0: it said nothing" in crew.failed[silent.folder]
    assert not begun(after)


def test_a_signal_lets_runs_save_and_the_same_work_goes_on(crew, fake, tmp_path):
    runs = [run(tmp_path / name, "long") for name in "abc"]
    before = signal.getsignal(signal.SIGINT)
    when_ready([one.folder for one in runs[:2]], lambda: os.kill(os.getpid(), signal.SIGINT))
    crew.work(runs)
    assert signal.getsignal(signal.SIGINT) is before
    assert crew.signals == [signal.SIGINT]
    assert not crew.failed
    assert [(one.folder / "checkpoints/step=1.ckpt").exists() for one in runs] == [True, True, False]
    assert not any(one.finished for one in runs)
    assert not begun(runs[2])
    again = Crew(crew.slots, crew.said.append, fake)
    again.work([run(one.folder, "long" if one is not runs[2] else "well") for one in runs])
    assert all(one.finished for one in runs)
    assert f"{runs[0].folder}: goes on" in crew.said
    costs = [json.loads(line) for line in (runs[0].folder / "cost.jsonl").read_text().splitlines()]
    assert [cost["exit_code"] for cost in costs] == [85, 0]
    assert costs[1]["seconds"] >= 0.3
    assert 5 < costs[1]["peak_mib"] < 1000
    assert 0 < costs[1]["cpu_seconds"] < 10


def test_a_second_signal_kills_what_does_not_leave(crew, tmp_path):
    stubborn = run(tmp_path / "a", "stubborn")

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    when_ready([stubborn.folder], twice)
    crew.work([stubborn])
    assert crew.signals == [signal.SIGTERM] * 2
    cost = json.loads((stubborn.folder / "cost.jsonl").read_text())
    assert cost["exit_code"] == -signal.SIGKILL


def test_a_run_that_another_process_is_at_is_waited_for_and_not_run_twice(crew, tmp_path):
    one = run(tmp_path / "a")
    lock = _lock(one.folder)

    def elsewhere():
        time.sleep(0.4)
        (one.folder / "results.json").write_text("{}")
        one.note()
        os.close(lock)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    crew.work([one])
    thread.join()
    assert one.finished
    assert not begun(one)
    assert f"{one.folder}: another process is at it" in crew.said


def test_the_lock_lives_as_long_as_the_process_even_without_its_parent(crew, fake, tmp_path):
    one = run(tmp_path / "a", "long")
    held: list[bool] = []

    def look():
        held.append(_lock(one.folder) is None)
        os.kill(os.getpid(), signal.SIGTERM)

    when_ready([one.folder], look)
    crew.work([one])
    assert held == [True]
    lock = _lock(one.folder)
    assert lock is not None
    os.close(lock)


def test_a_finished_run_of_another_command_is_judged_by_the_command_itself(crew, tmp_path):
    one = run(tmp_path / "a")
    crew.work([one])
    other, broken = run(tmp_path / "a", "other"), run(tmp_path / "a", "fail")
    crew.work([other])
    told = f"is finished, but not by this command: error: {one.folder} holds a run with another config: a (1 -> 2)"
    assert f"{told}; give its own options, or another --folder" in crew.failed[one.folder]
    crew.work([broken])
    told = "is finished, but could not be compared with this command: it ended with exit code 2: error: it cannot be"
    assert told in crew.failed[one.folder]
    assert not other.as_asked
    assert not broken.as_asked
    assert one.as_asked


def test_a_finished_run_that_is_made_anew_is_the_later_commands_alone_and_costs_again(crew, tmp_path):
    one, other = run(tmp_path / "a"), run(tmp_path / "a", "anew")  # as --override-config does
    crew.work([one])
    crew.work([other])
    assert not crew.failed
    assert other.as_asked
    assert not one.as_asked
    assert len((one.folder / "cost.jsonl").read_text().splitlines()) == 2


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert divide([]) == [Slot({"OMP_NUM_THREADS": "1"})] * 8
    assert divide([], 3) == [Slot({"OMP_NUM_THREADS": "2"})] * 3
    assert divide([], 16) == [Slot({"OMP_NUM_THREADS": "1"})] * 16
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    alone = divide(["0", "GPU-5f"])
    assert [slot.gpu for slot in alone] == ["0", "GPU-5f"]
    assert alone[1].variables == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "GPU-5f", **order}
    shared = divide(["0", "1"], 4)
    assert [slot.variables["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["0", "1", "0", "1"]
    assert {slot.gpu for slot in shared} == {None}  # whose energy would be another's too
    with pytest.raises(ValueError, match="--jobs must be at least 1, got 0"):
        divide([], 0)


@pytest.mark.parametrize(("gpus", "jobs", "told"), [(["0"], 1, 37.5), (["0"], 2, None), ([], 1, None)])
def test_a_run_with_a_gpu_of_its_own_costs_what_the_gpus_counter_gained(gpus, jobs, told, fake, tmp_path, monkeypatch):
    counter = iter([1000.25, 1037.75])  # as the run begins, and as it ends
    asked: list[str] = []

    def joules(gpu: str) -> float:
        asked.append(gpu)
        return next(counter)

    monkeypatch.setattr("skeleton_llm.ablation.slots.joules", joules)
    one = run(tmp_path / "a")
    Crew(divide(gpus, jobs), [].append, fake).work([one])
    (line,) = (one.folder / "cost.jsonl").read_text().splitlines()
    assert json.loads(line)["joules"] == told
    assert asked == (["0", "0"] if told else [])


@pytest.mark.parametrize("counter", [[None, 1037.75], [1000.25, None]])
def test_energy_that_the_gpu_did_not_tell_both_times_is_null(counter, fake, tmp_path, monkeypatch):
    told = iter(counter)
    monkeypatch.setattr("skeleton_llm.ablation.slots.joules", lambda gpu: next(told))
    one = run(tmp_path / "a")
    Crew(divide(["0"]), [].append, fake).work([one])
    assert json.loads((one.folder / "cost.jsonl").read_text())["joules"] is None


def test_a_killed_parent_leaves_no_second_process_at_a_run(fake, tmp_path):
    """The orphan holds the lock; whoever comes next waits."""
    folder = tmp_path / "a"
    program = (
        "import sys; from pathlib import Path; from skeleton_llm.ablation import Crew, Run, Slot\n"
        f"run = Run(Path({str(folder)!r}), ({str(folder)!r}, 'long'))\n"
        f"Crew([Slot({{'OMP_NUM_THREADS': '1'}})], print, {fake!r}).work([run])"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    while not (folder / "ready").exists():
        time.sleep(0.05)
    child = int(next(p.name for p in Path("/proc").iterdir() if p.name.isdigit() and _parent_of(p) == parent.pid))
    parent.kill()
    parent.wait()
    assert _lock(folder) is None
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while (lock := _lock(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lock is not None
    os.close(lock)
    assert (folder / "checkpoints/step=1.ckpt").exists()


def _parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1
