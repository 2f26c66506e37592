import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import AtomicCheckpointIO, Preemption, StepSeed
from small_runs import run, stage1_arguments

ROOT = Path(__file__).parents[2]


def trainer(folder, **options) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **{"logger": False, "enable_checkpointing": False, **options},
    )


class Noisy(BoringModel):
    """Keeps what it drew at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(()).item())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        torch.rand(17)
        return super().validation_step(batch, batch_idx)


def test_noise_is_a_function_of_the_step_alone(tmp_path):
    runs = []
    for limit_val in (0, 2):
        model = Noisy()
        trainer(tmp_path, callbacks=[StepSeed(7)], max_steps=5, limit_val_batches=limit_val, val_check_interval=2).fit(
            model
        )
        runs.append(model.drawn)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_saves_at_the_next_optimiser_step_and_leaves_with_85(tmp_path, number):
    class Signalled(BoringModel):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)  # a second one must not break the first
            return super().training_step(batch, batch_idx)

    before = signal.getsignal(number)
    run = trainer(tmp_path, callbacks=[Preemption()], max_steps=20, accumulate_grad_batches=3, limit_val_batches=0)
    try:
        with pytest.raises(SystemExit) as left:
            run.fit(Signalled())
    finally:
        signal.signal(number, before)
    assert left.value.code == 85
    checkpoint = torch.load(tmp_path / "checkpoints" / "step=2.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2  # batches 0 to 5: the partial gradients of batch 4 are not lost


def test_two_ranks_stop_at_the_same_optimiser_step_when_one_is_signalled_and_agree_on_their_hosts(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = [sys.executable, str(ROOT / "tests/references/signalled_ranks.py"), str(tmp_path)]
    ranks = [
        subprocess.Popen(script, cwd=ROOT, env={**known, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [85, 85], errors[0][-2000:] + errors[1][-2000:]
    found = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [{"step": 2, "batches": 6, "backend": "gloo"}] * 2
    checkpoint = torch.load(tmp_path / "checkpoints" / "step=2.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


def test_a_failed_write_leaves_the_last_checkpoint_whole(tmp_path):
    writer, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    writer.save_checkpoint({"global_step": 1}, path)

    class Unwritable:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        writer.save_checkpoint({"global_step": 2, "bad": Unwritable()}, path)
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_reconstructions_reach_tensorboard_as_moving_pictures(tmp_path, small_data):
    folder = tmp_path / "run"
    run(stage1_arguments(small_data, folder))
    events = EventAccumulator(str(next(folder.rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("reconstructions/")]
    assert len(tags) == 4
    pictures = events.Images(tags[0])
    assert [picture.step for picture in pictures] == [2, 5]
    with Image.open(io.BytesIO(pictures[-1].encoded_image_string)) as image:
        assert image.format == "GIF"
        assert image.n_frames > 8
        assert image.size == (640, 320)


def test_reconstructions_wait_for_the_codebook(tmp_path, small_data):
    run(stage1_arguments(small_data, tmp_path, "--model.init_args.quantize_after", "4"))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("reconstructions/")]
    assert len(tags) == 4
    assert all([picture.step for picture in events.Images(tag)] == [5] for tag in tags)  # a validation stood at 2 too
