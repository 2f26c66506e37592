import os
import shlex
import subprocess
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml

from skeleton_llm.cli.main import main
from skeleton_llm.cli.slurm_job import Shape, SlurmJob, find_shape, render, render_array
from small_runs import ROOT, stage1_arguments, stage2_arguments


def stage1(data, folder, *more: str) -> list[str]:
    return ["slurm", *stage1_arguments(data, folder)[1:], *more]


def header(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def array(script: str, name: str) -> list[str]:
    """A list of the script as bash reads it."""
    line = next(line for line in script.splitlines() if line.startswith(f"{name}=("))
    code = f'{line}\nprintf "%s\\n" "${{{name}[@]}}"'
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts a shell script in front of whatever has its name."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, *lines: str) -> None:
        (folder / name).write_text("\n".join(["#!/bin/bash", f"told={folder}", *lines, ""]))
        (folder / name).chmod(0o755)

    def told() -> str:
        return (folder / "told").read_text() if (folder / "told").exists() else ""

    write.told = told
    return write


@pytest.fixture
def sbatch(programs):
    """Takes every job, as number 41, and keeps its script."""
    programs("sbatch", 'cat >"$told/told"; env | grep ^SLURM_ >"$told/environment"', "echo '41;cluster'")
    return programs.told


def test_the_script_asks_for_what_the_config_says(small_data, tmp_path, capsys):
    gpus = [f"--config={ROOT / 'configs/hardware/a100.yaml'}", f"--config={ROOT / 'configs/slurm/a100.yaml'}"]
    asked = [
        "--trainer.num_nodes",
        "2",
        "--slurm.partition",
        "gpu",
        "--slurm.account",
        "me",
        "--slurm.modules",
        "[cuda]",
    ]
    more = ["--slurm.setup", "['export A=\"b c\"']", "--slurm.options", "['--comment=\"x y\"']"]
    command = stage1(small_data, tmp_path / "first/stage1", *asked, *more, *gpus, "--trainer.accelerator=gpu")
    assert main([command[0], "--dry-run", *command[1:]]) == 0
    script = capsys.readouterr().out
    assert header(script) == {
        "--job-name=first-stage1", "--partition=gpu", "--account=me", "--nodes=2", "--ntasks-per-node=4",
        "--gres=gpu:a100:4", "--cpus-per-task=8", "--mem=240G", "--time=24:00:00", "--signal=USR1@300", "--requeue",
        "--open-mode=append", f"--output={tmp_path}/first/stage1/logs/%j.log", "--dependency=singleton",
        '--comment="x y"',
    }  # fmt: skip
    assert script.index("module load cuda\n") < script.index('export A="b c"\n') < script.index("srun")
    assert array(script, "launch") == ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=8"]
    assert array(script, "fit")[1:] == ["-m", "skeleton_llm.cli.main", "fit", *command[1:]]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--slurm.partitionn", "x"], "slurm.partitionn"),
        (["--model.init_args.zipf_weightt", "1"], "zipf_weightt"),
        (["--trainer.devices", "auto"], "trainer.devices auto does not tell SLURM how many GPUs"),
        (["--data.init_args.folder", "/nowhere"], "/nowhere/dataset.json is missing"),
        (
            ["--model.init_args.llm.name", "no/such-model"],
            "fetch it first: skeleton-llm download no/such-model --words",
        ),
        (["--slurm.gpu_type", "a100"], "slurm.gpu_type a100 asks for GPUs, but trainer.accelerator is cpu"),
        (["--after", "runs/never"], "no job is known for runs/never (--after): submit that run first"),
    ],
)
def test_what_the_job_would_stumble_over_is_told_before_it_is_submitted(
    small_data, tmp_path, capsys, sbatch, more, named
):
    assert main(stage1(small_data, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert named in error[-1]
    assert len(error) == 1
    assert sbatch() == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ({"devices": "auto"}, "trainer.devices auto does not tell SLURM how many GPUs"),
        ({"devices": [0, 1]}, r"trainer.devices \[0, 1\] does not tell"),
        ({"devices": -1}, "trainer.devices -1 does not tell"),
        ({"num_nodes": 0}, "trainer.num_nodes must be at least 1, got 0"),
        ({"accelerator": "auto"}, "trainer.accelerator auto does not tell whether GPUs are wanted"),
    ],
)
def test_what_only_the_node_would_know_is_refused(trainer, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_shape({"devices": 2, "num_nodes": 1, "accelerator": "gpu"} | trainer)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("time: 24:00:00", "slurm.time .* in quotes where it is YAML; got 86400"),
        ("time: 1 day", "slurm.time is a limit such as '24:00:00' or '2-00:00:00'"),
        ("time: '4'", "slurm.time 4 is no longer than slurm.signal_lead, 300 s, so that every start"),
        ("{time: '1:00:00', signal_lead: 3600}", "slurm.time 1:00:00 is no longer than slurm.signal_lead, 3600 s"),
        ("idle_starts: 0", "slurm.idle_starts must be at least 1, got 0"),
        ("cpus_per_task: 0", "slurm.cpus_per_task must be at least 1, got 0"),
    ],
)
def test_a_wrong_value_of_the_section_is_one_sentence(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        SlurmJob(**yaml.safe_load(section))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("1:30:05", 5405), ("2-3", 183600), ("2-3:04", 183840), ("2-3:04:05", 183845)],
)
def test_times_are_read_as_slurm_does(time, seconds):
    SlurmJob(time=time, signal_lead=seconds - 1)
    with pytest.raises(ValueError, match="no longer than"):
        SlurmJob(time=time, signal_lead=seconds)


def test_a_submitted_job_tells_its_id_and_is_followed_by_the_next_stage(
    small_data, tmp_path, capsys, sbatch, programs, monkeypatch
):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")  # submitted from inside another job
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    one, two = tmp_path / "runs/a/stage1", tmp_path / "runs/a/stage2"
    assert main(stage1(small_data, one)) == 0
    out, told = capsys.readouterr()
    assert out == "41\n"
    assert f"skeleton-llm runs {one}" in told
    assert (one / "logs/submitted.txt").read_text() == "41\n"
    assert (tmp_path / "programs/environment").read_text() == "SLURM_CONF=/etc/slurm.conf\n"
    chained = ["slurm", "--after", str(one), *stage2_arguments(small_data, two, one / "tokenizer")[1:]]
    assert main(chained) == 0
    assert {"--dependency=afterok:41,singleton", "--kill-on-invalid-dep=yes"} < header(sbatch())
    assert main([chained[0], *chained[3:]]) == 2
    assert "holds no tokenizer; wait for stage 1, or chain by --after" in capsys.readouterr().err


def test_slurms_refusal_and_a_missing_slurm_are_one_sentence(small_data, tmp_path, capsys, programs, monkeypatch):
    programs("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    assert main(stage1(small_data, tmp_path / "run")) == 2
    assert (
        capsys.readouterr().err
        == "error: SLURM did not take the job: sbatch: error: invalid partition specified: gpu\n"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(stage1(small_data, tmp_path / "run")) == 2
    assert "sbatch is not here; submit on a login node" in capsys.readouterr().err


def test_a_run_goes_on_under_another_slurm_section_but_under_no_other_config(small_data, tmp_path, capsys, sbatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text("{}")
    begun = [*stage1_arguments(small_data, run), "--slurm.partition", "old"]
    with pytest.raises(SystemExit):
        main([*begun, "--print_config"])
    (run / "config.yaml").write_text(capsys.readouterr().out)
    assert yaml.safe_load((run / "config.yaml").read_text())["slurm"]["partition"] == "old"
    for command in ("fit", "slurm"):
        other = [command, *begun[1:], "--slurm.partition", "new", "--slurm.modules", "[cuda]"]
        assert main(other) == 0
        assert "finished" in "".join(capsys.readouterr())
        assert main([*other, "--trainer.max_steps", "7"]) == 2
        assert "trainer.max_steps (6 -> 7)" in capsys.readouterr().err
    assert sbatch() == ""


def test_a_container_is_started_by_srun_with_python_as_the_task(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shape = Shape(1, 2, on_gpus=True)
    script = render(SlurmJob(container="/images/a b.sif"), shape, Path("runs/a"), ["--x"])
    assert array(script, "fit") == [
        "apptainer", "exec", "--nv", "--bind", str(tmp_path), "--pwd", str(tmp_path), "/images/a b.sif",
        "python3", "-m", "skeleton_llm.cli.main", "fit", "--x",
    ]  # fmt: skip
    assert array(script, "launch")[0] == "srun"
    script = render(SlurmJob(container="nvcr.io#x", container_by="pyxis", python="py"), shape, Path("runs/a"), ["--x"])
    assert array(script, "fit")[0] == "py"
    mounted = [f"--container-mounts={tmp_path}:{tmp_path}", f"--container-workdir={tmp_path}"]
    assert array(script, "launch")[-3:] == ["--container-image=nvcr.io#x", *mounted]


@pytest.fixture
def start(programs, tmp_path, monkeypatch):
    """One start of job 9, whose run saves at ``step`` and ends with ``code``: its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    programs("scontrol", '[ $1 = show ] && echo n1 || echo "requeue $2" >>"$told/told"')
    programs("squeue", "echo 2030-01-01T00:00:00")
    programs("sleep")
    script = render(SlurmJob(idle_starts=2), Shape(1, 1, on_gpus=False), Path("runs/a b"), ["--x", "y z"])
    (tmp_path / "runs/a b/logs").mkdir(parents=True)
    facts = {"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "4"}

    def run(code: int, step: int | None = None, restart: int = 0, *, leave: bool = False) -> tuple[int, str]:
        save = [] if step is None else [f'mkdir -p "{tmp_path}/runs/a b/checkpoints/step={step}.ckpt"']
        facts_of_run = '"$MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS $HF_HUB_OFFLINE"'
        shown = f'printf "%s\\n" "$@" {facts_of_run} >"$told/given"; echo "${{SLURM_JOB_END_TIME:-none}}" >"$told/end"'
        programs("srun", *save, shown, *(["leave"] if leave else []), f"exit {code}")
        kept = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MASTER_ADDR")}
        kept.pop("SLURM_JOB_END_TIME", None)
        environment = kept | facts | {"SLURM_RESTART_COUNT": str(restart)}
        done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def test_the_run_gets_its_command_and_surroundings_and_a_log_of_its_own(start, tmp_path):
    start(0, restart=3)
    lines = (tmp_path / "programs/given").read_text().splitlines()
    assert lines[:3] == ["--kill-on-bad-exit=1", "--cpus-per-task=8", "--output=runs/a b/logs/9.3.log"]
    assert lines[-3:] == ["--x", "y z", "n1 20009 4 1"]


@pytest.mark.parametrize(
    ("code", "again"), [(85, True), (138, True), (0, False), (1, False), (2, False), (130, False), (143, False)]
)
def test_only_a_run_that_was_asked_to_leave_is_started_again(start, programs, code, again):
    ended, said = start(code, step=5)
    assert ended == code
    assert (programs.told() == "requeue 9\n") == again
    assert ("exit code 85 at step 5: to be started again" in said) == (code == 85)
    assert ("failed with exit code 1, see runs/a b/logs/9.0.log" in said) == (code == 1)


def test_a_run_that_left_well_is_started_again_though_srun_ended_a_slower_rank(start, programs, tmp_path):
    record = tmp_path / "runs/a b/progress.json"
    record.write_text('{"state": "preempted"}')
    start(143)  # the record of an earlier start says nothing of this one
    assert programs.told() == ""
    programs("leave", f"""/bin/sleep 0.05; echo '{{"state": "preempted"}}' >"{record}" """)
    start(143, step=3, leave=True)
    assert programs.told() == "requeue 9\n"


def test_a_run_that_was_signalled_when_it_had_finished_has_ended_well(start, programs, tmp_path):
    results = tmp_path / "runs/a b/results.json"
    results.write_text("{}")
    assert start(143)[0] == 143  # the results of an earlier start
    programs("leave", f"""/bin/sleep 0.05; echo '{{}}' >"{results}" """)
    assert start(143, leave=True) == (0, ANY)
    assert programs.told() == ""


@pytest.mark.parametrize(
    ("answer", "end"),
    [("echo 2030-01-01T00:00:00", "1893456000"), ("exit 1", "none"), ("echo NONE", "none"), ("echo N/A", "none")],
)
def test_the_run_is_told_when_its_time_is_over_and_nothing_where_slurm_does_not_know(
    start, programs, tmp_path, monkeypatch, answer, end
):
    monkeypatch.setenv("TZ", "UTC")
    programs("squeue", answer)
    assert start(0)[0] == 0
    assert (tmp_path / "programs/end").read_text().strip() == end


def test_a_refused_requeue_is_tried_again_and_then_told(start, programs):
    programs("scontrol", '[ $1 = show ] && echo n1 || { echo "requeue $2" >>"$told/told"; exit 1; }')
    ended, said = start(85, step=5)
    assert ended == 85
    assert programs.told() == "requeue 9\n" * 5
    assert "scontrol requeue was refused: submit the run again, it goes on from step 5" in said


def test_starts_that_save_no_step_come_to_an_end(start, programs):
    for restart, (code, step) in enumerate([(85, 5), (138, None), (85, 12), (85, None)]):
        start(code, step, restart)
    assert len(programs.told().splitlines()) == 4
    ended, said = start(85, None, 4)
    assert ended == 85
    assert "2 starts in a row saved no step: not started again" in said
    assert len(programs.told().splitlines()) == 4


@pytest.fixture
def array_of_two(tmp_path) -> str:
    runs = [(tmp_path / "runs/a b/stage1", ["--x", "y z"]), (tmp_path / "runs/c/stage1", ["--x", "w"])]
    job = SlurmJob(partition="p", idle_starts=2, setup=["echo begun"])
    return render_array(job, Shape(1, 1, on_gpus=False), tmp_path / "runs", runs, after="7", at_once=4)


def test_every_task_of_an_array_is_a_run_of_its_own(array_of_two, programs, tmp_path):
    assert {"--array=0-1%4", "--dependency=afterany:7", f"--output={tmp_path}/runs/logs/%A_%a.log"} <= header(
        array_of_two
    )
    programs("scontrol", 'echo "requeue $2" >>"$told/told"')
    programs("squeue", "echo 2030-01-01T00:00:00")
    programs("sleep")
    programs("srun", 'printf "%s\\n" "$@" >"$told/given"; exit 85')
    for task, (folder, last) in enumerate((("a b", "y z"), ("c", "w"))):
        facts = {"SLURM_JOB_ID": str(20 + task), "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_NODELIST": "n1"}
        facts |= {"SLURM_CPUS_PER_TASK": "1", "MASTER_ADDR": "n1"}
        environment = {**os.environ, **facts}
        done = subprocess.run(
            ["bash"], input=array_of_two, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (85, "")
        run = tmp_path / "runs" / folder / "stage1"
        given = (tmp_path / "programs/given").read_text().splitlines()
        assert given[2] == f"--output={run}/logs/{20 + task}.0.log"
        assert given[-5:] == ["-m", "skeleton_llm.cli.main", "fit", "--x", last]
        assert (run / "logs/submitted.txt").read_text() == f"{20 + task}\n"
        assert f"requeue {20 + task}\n" in programs.told()


def test_a_table_is_two_arrays_of_what_is_left(sbatch, programs, small_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    programs("squeue", "echo '30_0|30|PENDING|Resources'")
    queued = tmp_path / "runs/ablations/synthetic/no_zipf/seed0/stage1"
    (queued / "logs").mkdir(parents=True)
    (queued / "logs/submitted.txt").write_text("30_0\n")
    given = ["ablate", "--data", "synthetic", "--cells", "full", "no_zipf", "--data.init_args.folder", str(small_data)]
    given += ["--slurm", "--jobs", "3", "--slurm.partition", "p"]
    assert main([*given, "--dry-run"]) == 0
    shown = capsys.readouterr()
    first, second = shown.out.split("#!/bin/bash\n")[1:]
    assert "0 of 5 runs are finished, 1 in SLURM's queue" in shown.err
    assert {"--partition=p", "--array=0-0%3"} <= header(first)
    assert not any("dependency" in option for option in header(first))
    assert "0) run=runs/ablations/synthetic/full/seed0/stage1 arguments=(" in first
    after = "--dependency=afterany:30_0:JOB_OF_runs/ablations/synthetic/full/seed0/stage1"  # no_zipf's is in the queue
    assert {"--array=0-2%3", after} <= header(second)
    assert "stage2" in second
    assert "sentences" in second
    assert sbatch() == ""
    assert main(given) == 0
    assert "job 41: 1 runs" in capsys.readouterr().err
    assert "--array=0-2%3" in sbatch()
    assert "--dependency=afterany:30_0:41" in sbatch()
    full = tmp_path / "runs/ablations/synthetic/full/seed0"
    assert [(full / f"{run}/logs/submitted.txt").read_text() for run in ("stage1", "stage2")] == ["41_0\n", "41_0\n"]
    assert not (tmp_path / "runs/ablations/synthetic/logs/submitted.txt").exists()


def test_make_hands_its_variables_on():
    asked = ["make", "--dry-run", "slurm", "DATA=nw_ucla", "RUN=a", "NODES=2", "GPUS=4", "PARTITION=p", "ACCOUNT=c"]
    asked += ["TIME=2-00:00:00", "DRY_RUN=1", "CONFIG1=one.yaml", "CONFIG2=two.yaml", "ARGS=--trainer.max_steps=9"]
    alone = {"PATH": os.environ["PATH"]}
    shown = subprocess.run(asked, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    first, second = (shlex.split(line)[1:] for line in shown.splitlines() if "skeleton-llm slurm" in line)
    size = [
        "--trainer.num_nodes",
        "2",
        "--trainer.accelerator",
        "gpu",
        "--trainer.devices",
        "4",
        "--slurm.partition",
        "p",
        "--slurm.account",
        "c",
    ]
    size += ["--slurm.time", "2-00:00:00", "--trainer.max_steps=9"]
    assert first[:2] == ["slurm", "--dry-run"]
    assert second[:4] == ["slurm", "--dry-run", "--after", "runs/a/stage1"]
    assert first[-len(size) :] == second[-len(size) :] == size
    assert "one.yaml" in first
    assert "two.yaml" in second
    assert not {"one.yaml", "two.yaml"} <= {*first}
