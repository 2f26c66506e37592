"""Our own scripts on a real SLURM of two emulated nodes; skipped where there is none (tests/one_machine_slurm.py)."""

import json
import time
from pathlib import Path

import pytest
import torch
from one_machine_slurm import free_port, missing, started

from skeleton_llm.cli.main import main
from small_runs import stage1_arguments, stage2_arguments

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
TWO_BY_TWO = ["--trainer.num_nodes", "2", "--trainer.devices", "2", "--slurm.cpus_per_task", "1"]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with started(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def submit(slurm, monkeypatch, capsys):
    """``skeleton-llm slurm`` as on a login node; the job's id."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    # both nodes are this machine, whose name the ranks need not resolve
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def run(*arguments: str) -> str:
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        assert main(["slurm", *arguments]) == 0
        return capsys.readouterr().out.strip()

    return run


@pytest.fixture
def stand_in(tmp_path) -> list[str]:
    """Instead of Python: each task tells what it was given, and ends as ``ends`` says of this start."""
    program = tmp_path / "stand_in"
    program.write_text(
        f"""#!/bin/bash
start=${{SLURM_RESTART_COUNT:-0}}
echo "start $start, rank $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME: $1 $2 $3"
exit "$(sed -n $((start + 1))p "{tmp_path}/$SLURM_JOB_NAME")"
"""
    )
    program.chmod(0o755)
    return [*TWO_BY_TWO, "--slurm.python", str(program)]


def ends(tmp_path: Path, job: str, *codes: int) -> None:
    """The exit codes of a job's first start, the second and so on."""
    (tmp_path / job).write_text("".join(f"{code}\n" for code in codes))


def test_a_stage_that_asks_for_it_is_started_again_and_the_next_waits(slurm, submit, stand_in, small_data, tmp_path):
    one, two = tmp_path / "a/stage1", tmp_path / "a/stage2"
    ends(tmp_path, "a-stage1", 85, 0)
    ends(tmp_path, "a-stage2", 0)
    first = submit(*stage1_arguments(small_data, one)[1:], *stand_in)
    second = submit(*stage2_arguments(small_data, two, one / "tokenizer")[1:], *stand_in, "--after", str(one))
    begun = slurm.wait(second, "COMPLETED", seconds=60)["StartTime"]
    facts = slurm.facts(first)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1")
    assert facts["EndTime"] <= begun
    for start in (0, 1):
        lines = (one / f"logs/{first}.{start}.log").read_text().splitlines()
        assert sorted(line for line in lines if line.startswith("start")) == [
            f"start {start}, rank {rank} of 4 on n{1 + rank // 2}: -m skeleton_llm.cli.main fit" for rank in range(4)
        ]
    journal = (one / f"logs/{first}.log").read_text()
    assert journal.index("exit code 85 at step 0: to be started again") < journal.index("start 1: ended well")


def test_a_failed_stage_is_not_started_again_and_the_next_one_never(slurm, submit, stand_in, small_data, tmp_path):
    one, two = tmp_path / "a/stage1", tmp_path / "a/stage2"
    ends(tmp_path, "a-stage1", 1, 0)
    first = submit(*stage1_arguments(small_data, one)[1:], *stand_in)
    second = submit(*stage2_arguments(small_data, two, one / "tokenizer")[1:], *stand_in, "--after", first)
    facts = slurm.wait(first, *ENDED, seconds=60)
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "0")
    assert slurm.wait(second, *ENDED, seconds=60)["JobState"] == "CANCELLED"
    assert not (two / f"logs/{second}.log").exists()


def test_a_table_is_two_arrays_whose_tasks_end_each_in_its_own_way(
    slurm, submit, small_data, tmp_path, monkeypatch, capsys
):
    """One tokenizer is asked to leave once, the other fails; what reads them begins when both have ended."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "stand_in"
    program.write_text(
        """#!/bin/bash
echo "start ${SLURM_RESTART_COUNT:-0}"
until [ -e go ]; do sleep 0.1; done
case $* in
  *default_root_dir\\ */no_zipf/seed0/stage1*) exit 2 ;;
  *default_root_dir\\ */full/seed0/stage1*) [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && exit 85 ;;
esac
exit 0
"""
    )
    program.chmod(0o755)
    table = ["ablate", "--data", "synthetic", "--cells", "full", "no_zipf", "--folder", "table", "--slurm"]
    table += ["--data.init_args.folder", str(small_data), "--slurm.python", str(program), "--slurm.cpus_per_task", "1"]
    assert main(table) == 0
    first, second = (
        line.split()[1].rstrip(":") for line in capsys.readouterr().err.splitlines() if line.startswith("job")
    )
    assert main(table) == 0
    assert capsys.readouterr().err == "0 of 5 runs are finished, 5 in SLURM's queue\n"  # nothing is submitted twice
    Path("go").touch()
    ends = [slurm.wait(f"{second}_{task}", *ENDED, seconds=90) for task in range(3)]
    begun = [slurm.facts(f"{first}_{task}") for task in range(2)]
    assert [(facts["JobState"], facts["Restarts"]) for facts in begun] == [("COMPLETED", "1"), ("FAILED", "0")]
    assert {facts["JobState"] for facts in ends} == {"COMPLETED"}
    assert max(facts["EndTime"] for facts in begun) <= min(facts["StartTime"] for facts in ends)
    logs = tmp_path / "table/full/seed0/stage1/logs"
    own = (logs / "submitted.txt").read_text().split()
    assert own[0] == f"{first}_0"
    assert (logs / f"{own[-1]}.1.log").read_text() == "start 1\n"
    journal = (tmp_path / f"table/logs/{first}_0.log").read_text()
    assert journal.index("exit code 85 at step 0: to be started again") < journal.index("start 1: ended well")


def test_a_job_of_another_size_is_refused_before_anything_is_loaded(slurm, submit, small_data, tmp_path):
    run = tmp_path / "runs/a/stage1"
    job = submit(*stage1_arguments(small_data, run)[1:], *TWO_BY_TWO, "--slurm.options", "[--ntasks-per-node=1]")
    assert slurm.wait(job, *ENDED, seconds=60)["JobState"] == "FAILED"
    assert not (run / "environment.txt").exists()
    log = (run / f"logs/{job}.0.log").read_text()
    assert log.count("trainer.devices is 2, but the job has 1 task on each node; give --trainer.devices 1") >= 1


def in_training(run: Path, start: int, seconds: float = 400) -> None:
    """Wait until the run's start of this number, from 1, takes steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        record = json.loads((run / "progress.json").read_text()) if (run / "progress.json").exists() else {}
        if record.get("starts") == start and record["started_at_step"] is not None:
            assert record["state"] == "running", f"{run} has come to its end unnoticed"
            time.sleep(0.5)
            return
        time.sleep(0.1)
    raise TimeoutError(f"{run} did not begin its start {start}")


def last_checkpoint(run: Path, step: int) -> dict:
    return torch.load(run / f"checkpoints/step={step}.ckpt", weights_only=True)


@pytest.mark.slow
def test_both_stages_preempted_on_two_nodes_end_with_the_weights_of_an_untouched_run(
    slurm, submit, small_data, tmp_path, capsys
):
    size = [*TWO_BY_TWO, "--data.init_args.batch_size", "4", "--trainer.val_check_interval", "15"]
    # with four ranks DDP sums in another order after a restart, unless it is told to look for unused parameters
    size += ["--trainer.strategy", "ddp_find_unused_parameters_true"]

    def both(name: str) -> tuple[Path, Path, str, str]:
        one, two = tmp_path / name / "stage1", tmp_path / name / "stage2"
        first = submit(*stage1_arguments(small_data, one)[1:], *size, "--trainer.max_steps", "45")
        chained = stage2_arguments(small_data, two, one / "tokenizer")[1:]
        second = submit(*chained, *size, "--trainer.max_steps", "30", "--after", str(one))
        return one, two, first, second

    one, two, first, second = both("touched")
    slurm.wait(first, "RUNNING", seconds=30)
    time.sleep(3)
    slurm.run("scancel", "--signal=USR1", first)  # while Python still imports
    in_training(one, 2)
    slurm.run("scontrol", "requeue", first)  # as an administrator, or a job of higher priority, does
    in_training(two, 1)
    slurm.run("scancel", "--signal=USR1", second)
    in_training(two, 2)
    slurm.run("scontrol", "requeue", second)
    assert slurm.wait(second, *ENDED, seconds=600)["JobState"] == "COMPLETED"
    assert {job: slurm.facts(job)["Restarts"] for job in (first, second)} == {first: "2", second: "2"}

    untouched = both("untouched")
    assert slurm.wait(untouched[3], *ENDED, seconds=600)["JobState"] == "COMPLETED"
    for run, reference, step in ((one, untouched[0], 45), (two, untouched[1], 30)):
        touched, whole = last_checkpoint(run, step), last_checkpoint(reference, step)
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(touched[part], whole[part], rtol=0, atol=0)
        assert json.loads((run / "results.json").read_text()) == json.loads((reference / "results.json").read_text())
        assert json.loads((run / "progress.json").read_text())["starts"] == 3
        assert len(list((run / "logs").glob("*.?.log"))) == 3
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("finished") == 4
