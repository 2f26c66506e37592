import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.watchdog import UNSTEADY, Watchdog

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("hang", "rank 1 hangs in the forward pass of a step for"),
        pytest.param("freeze", "rank 1 has given no sign of life for", marks=pytest.mark.slow),
        pytest.param(
            "backward",
            r"rank 1 hangs at lost_ranks.py:\d+ in the backward pass of a step: no rank has moved on for",
            marks=pytest.mark.slow,
        ),
        pytest.param("fail", "rank 1 failed: no such batch", marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_ends_the_run_by_name(tmp_path, how, said):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = [sys.executable, str(ROOT / "tests/references/lost_ranks.py"), str(tmp_path), how]
    ranks = [
        subprocess.Popen(script, cwd=ROOT, env={**known, "LOCAL_RANK": str(rank)}, stderr=stream, text=True)
        for rank, stream in enumerate((subprocess.PIPE, subprocess.DEVNULL))
    ]
    try:
        error = ranks[0].communicate(timeout=280)[1]
        took = time.time() - (tmp_path / "lost").stat().st_mtime
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[0].returncode == 1
    assert re.search(f"error: {said}", error)
    assert took < 60  # torch alone would wait for half an hour


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_what_callbacks_draw_behind_an_evaluation_may_take_its_time(stage, tmp_path):
    dog, places = Watchdog(), []

    class Drawing(L.Callback):
        """Stands before the watchdog, whose own hook at this point has not run yet."""

        def on_validation_epoch_end(self, *args):
            places.append(dog.at)

        def on_test_epoch_end(self, *args):
            places.append(dog.at)

        def on_validation_batch_end(self, *args):
            places.append(dog.at)

        def on_test_batch_end(self, *args):
            places.append(dog.at)

    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[Drawing(), dog],
        limit_val_batches=2,
        limit_test_batches=2,
    )
    (trainer.validate if stage == "validation" else trainer.test)(BoringModel(), verbose=False)
    within = "a batch of validation" if stage == "validation" else "a batch of the test"
    assert places == [within, within, f"{stage}_end"]
    assert places[-1] in UNSTEADY
