import json
import os
import socket
import subprocess
import sys
import time

import pytest

from skeleton_llm.cli.main import main
from skeleton_llm.cli.runs import Queued, ask_queue, find_runs, standing

NOW = 1_000_000.0
NOBODY = 2**22 + 1  # above the largest process id that Linux gives


@pytest.fixture
def run(tmp_path):
    """A run that has said, ten seconds ago, that it runs as job 7 on another host."""

    def write(folder=tmp_path / "runs/first/stage1", **changes):
        record = {
            "state": "running", "step": 300, "max_steps": 1000, "loss": 0.25, "started": NOW - 210.0,
            "started_at_step": 200, "updated": NOW - 10.0, "starts": 3, "job": "7", "world_size": 2,
            "host": "elsewhere", "process": NOBODY,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress.json").write_text(json.dumps(record | changes))
        return folder

    return write


def submit(folder, *jobs):
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/submitted.txt").write_text("".join(f"{job}\n" for job in jobs))
    return folder


def test_a_running_job_has_its_pace_since_the_last_start(run):
    stands = standing(run(), {"7": Queued("RUNNING", "None")}, NOW)
    assert stands.state == "running"
    assert stands.left == pytest.approx(700 * 2.0 - 10)


@pytest.mark.parametrize(
    ("said", "queue", "state"),
    [
        ({}, {"7": Queued("RUNNING", "None")}, "running"),
        ({}, {"7": Queued("PENDING", "BeginTime")}, "queued (BeginTime)"),
        ({}, {"7": Queued("COMPLETING", "None")}, "completing"),
        ({}, {}, "killed"),
        ({"state": "preempted"}, {"7": Queued("RUNNING", "None")}, "starting"),
        ({"started_at_step": None}, {"7": Queued("RUNNING", "None")}, "starting"),
        ({"started_at_step": None}, None, "starting"),
        ({"state": "preempted"}, {}, "preempted"),
        ({"state": "failed"}, None, "failed"),
        ({}, None, "running"),
        ({"updated": NOW - 7200}, None, "silent for 2 h 0 min"),
        ({"job": None, "host": socket.gethostname()}, None, "killed"),
        ({"job": None, "host": socket.gethostname()}, {}, "killed"),
        ({"job": None, "host": socket.gethostname(), "process": os.getpid()}, None, "running"),
    ],
)
def test_what_a_run_says_is_held_against_the_queue_and_the_process(run, said, queue, state):
    stands = standing(run(**said), queue, NOW)
    assert stands.state == state
    assert (stands.left is not None) == (state == "running")


def test_no_time_left_is_told_before_the_first_step_of_a_start(run):
    assert standing(run(step=200), {"7": Queued("RUNNING", "None")}, NOW).left is None
    assert standing(run(max_steps=None), {"7": Queued("RUNNING", "None")}, NOW).left is None


def test_a_submitted_run_is_shown_before_it_has_begun(tmp_path):
    folder = submit(tmp_path, 99, 100)
    assert standing(folder, {"100": Queued("PENDING", "Dependency")}, NOW)[1:] == (
        "queued (Dependency)",
        {},
        "100",
        None,
    )
    assert standing(folder, {"100": Queued("RUNNING", "None")}, NOW).state == "starting"
    assert standing(folder, {}, NOW).state == "failed"
    assert standing(folder, None, NOW).state == "not started"


def test_a_run_that_was_submitted_again_follows_the_newer_job(run):
    folder = submit(run(state="failed"), 7, 10)
    assert standing(folder, {"10": Queued("PENDING", "Priority")}, NOW).state == "queued (Priority)"


def test_results_outweigh_everything(run):
    folder = run()
    (folder / "results.json").write_text("{}")
    assert standing(folder, {"7": Queued("RUNNING", "None")}, NOW).state == "finished"


def test_runs_are_found_at_any_depth_but_not_inside_one_another(run, tmp_path):
    folders = [run(tmp_path / name) for name in ("a/stage1", "a/unseen/draw0/stage2", "b")]
    run(tmp_path / "b/inside")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/again").symlink_to(tmp_path)
    assert list(find_runs(tmp_path)) == folders


def test_the_table_asks_squeue_once_and_shows_a_line_a_run(run, tmp_path, monkeypatch, capsys):
    run(updated=time.time(), started=time.time() - 200)
    run(tmp_path / "runs/first/stage2", state="preempted", job="8", loss=None)
    (tmp_path / "squeue").write_text(
        '#!/bin/sh\necho "$@" >> asked\necho "7|7|RUNNING|None"\necho "8|8|PENDING|Job held"\n'
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["runs"]) == 0
    head, first, second = (line.split("  ") for line in capsys.readouterr().out.splitlines())
    cells = [[cell.strip() for cell in line if cell.strip()] for line in (head, first, second)]
    assert cells[0] == ["run", "state", "step", "loss", "starts", "left", "job"]
    assert cells[1] == ["runs/first/stage1", "running", "300/1000", "0.25", "3", "23 min", "7"]
    assert cells[2] == ["runs/first/stage2", "queued (Job held)", "300/1000", "-", "3", "-", "8"]
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_tasks_of_an_array_are_known_by_both_their_names(run, tmp_path, monkeypatch):
    """Task 0 works as job 12, task 1 was requeued as job 13, task 2 has not begun and shows its array's number."""
    lines = ("11_0|12|RUNNING|None", "11_1|13|PENDING|BeginTime", "11_2|11|PENDING|Resources")
    (tmp_path / "squeue").write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in lines))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queue = ask_queue()
    folders = [run(tmp_path / name, job=job) for name, job in (("a", "12"), ("b", "13"))]
    (tmp_path / "c").mkdir()
    for task, folder in enumerate([*folders, tmp_path / "c"]):
        submit(folder, "9", f"11_{task}")
    stands = [standing(folder, queue, NOW) for folder in (*folders, tmp_path / "c")]
    assert [(one.job, one.state) for one in stands] == [
        ("12", "running"),
        ("13", "queued (BeginTime)"),
        ("11_2", "queued (Resources)"),
    ]


def test_a_damaged_record_is_no_reason_to_show_nothing(run):
    folder = run()
    (folder / "progress.json").write_text('{"state": "runn')
    assert standing(folder, None, NOW).state == "not started"


def test_a_folder_without_runs_and_one_that_is_missing(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "holds no run yet" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_it_answers_without_loading_torch(tmp_path):
    code = "import sys, skeleton_llm.cli.main as m; m.main(['runs', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
