import os
import re
import subprocess
import sys
import time

import pytest

from skeleton_llm.cli.main import configs, main
from skeleton_llm.cli.preflight import mismatch, trainer_keys

RUN = ["--config", str(configs() / "stage1.yaml")]  # on one CPU
JOB = {
    "SLURM_JOB_NAME": "first-stage1", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_STEP_ID": "0", "SLURM_PROCID": "0",
}  # fmt: skip
FITTING = ["--trainer.num_nodes", "2", "--trainer.devices=2"]
GPUS = ["--config", str(configs() / "hardware/ddp.yaml")]


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in JOB.items() if name not in names}


def test_a_run_that_fits_its_job_is_let_through():
    assert mismatch([*RUN, *FITTING], JOB) is None


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (RUN, JOB, r"trainer\.num_nodes is 1, but the job has 2; give --trainer\.num_nodes 2, or submit it by"),
        ([*RUN, *FITTING, "--trainer.num_nodes=3"], JOB, r"num_nodes is 3, but the job has 2"),
        ([*RUN, "--trainer.num_nodes", "2"], JOB, r"trainer\.devices is 1, but the job has 2 tasks on each node; give"),
        ([*RUN, *FITTING, "--trainer.devices", "auto"], JOB, "devices is auto, but the job has 2 tasks on each node"),
        ([*RUN, *FITTING], JOB | {"SLURM_NTASKS_PER_NODE": "1"}, r"has 1 task on each node; give --trainer.devices 1"),
        ([*RUN, *FITTING], without("SLURM_STEP_ID"), "4 tasks, but this process was started alone .* put srun before"),
        (
            [*RUN, *FITTING],
            without("SLURM_NTASKS_PER_NODE"),
            r"given --ntasks=4; give it --ntasks-per-node=2, or submit",
        ),
        (
            [*RUN, *GPUS, *FITTING],
            JOB | {"CUDA_VISIBLE_DEVICES": "1"},
            r"devices is 2, but each process of the job sees 1 GPU; give the job --gres=gpu:2 \(--gpus-per-task",
        ),
        ([*RUN, *GPUS, *FITTING], JOB | {"CUDA_VISIBLE_DEVICES": ""}, "sees 0 GPU"),
        (
            [*RUN, *GPUS, "--trainer.num_nodes=2"],
            JOB | {"SLURM_GPUS_ON_NODE": "4"},
            "devices is auto, but the job has 2 tasks",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_its_mend(arguments, environment, sentence):
    found = mismatch(arguments, environment)

    assert re.search(sentence, found), found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([*RUN, *GPUS, *FITTING], JOB | {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ([*RUN, *GPUS, *FITTING], JOB),  # a node whose GPUs are not counted
        ([*RUN, *GPUS, "--trainer.num_nodes=2"], JOB | {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ([*RUN, *GPUS, "--trainer.num_nodes=2", "--trainer.devices", "[0, 1]"], JOB),
        (RUN, {}),
        (RUN, JOB | {"SLURM_JOB_NAME": "interactive"}),
        (RUN, {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}),
        (["--config", "/nowhere.yaml", *FITTING], JOB),  # the parser tells of that
    ],
)
def test_what_fits_or_cannot_be_known_is_let_through(arguments, environment):
    assert mismatch(arguments, environment) is None


def test_keys_come_from_files_and_options_in_their_order(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {devices: 4, num_nodes: 3, accelerator: gpu}\nmodel: {class_path: x}\n")
    (tmp_path / "b.yaml").write_text("slurm: {gpu_type: a100}\ntrainer:\n  devices: 8\n")
    files = [f"--config={tmp_path / 'a.yaml'}", "--config", str(tmp_path / "b.yaml")]
    assert trainer_keys(files) == {"devices": 8, "num_nodes": 3, "accelerator": "gpu"}
    assert trainer_keys([*files, "--trainer.devices", "2"])["devices"] == 2
    assert trainer_keys(["--trainer.devices", "2", *files])["devices"] == 8
    assert trainer_keys([*files, "--trainer", "{devices: 1}"])["devices"] == 1
    assert trainer_keys([]) == {"devices": "auto", "num_nodes": 1, "accelerator": "auto"}


def test_the_command_ends_with_the_sentence_and_exit_code_2(monkeypatch, capsys):
    for name, value in (JOB | {"SLURM_PROCID": "3"}).items():
        monkeypatch.setenv(name, value)
    assert main(["fit", *RUN]) == 2
    assert capsys.readouterr().err.startswith("error: trainer.num_nodes is 1, but the job has 2; give")


def test_it_takes_no_second_and_loads_no_torch():
    code = "import sys, skeleton_llm.cli.main as m; assert m.main(sys.argv[1:]) == 2; sys.exit('torch' in sys.modules)"
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code, "fit", *RUN], env=os.environ | JOB, check=True)
    assert time.monotonic() - begin < 5  # 0.1 s on an idle machine; the true guard is that torch stays out
