import re
import time

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from ranks import start_two_ranks

from callbacks.watchdog import UNSTEADY, Watchdog


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param("hang", "rank 1 hangs in the forward pass of a step for", marks=pytest.mark.slow),
        pytest.param("freeze", "rank 1 has given no sign of life for", marks=pytest.mark.slow),
        pytest.param(
            "backward",
            r"rank 1 hangs at lost_ranks.py:\d+ in the backward pass of a step: no rank has moved on for",
            marks=pytest.mark.slow,
        ),
        pytest.param("fail", r"rank 1 failed: no such batch \| or step", marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_ends_the_run_by_name(tmp_path, how, said):
    ranks = start_two_ranks("lost_ranks.py", tmp_path, how)
    try:
        error = ranks[0].communicate(timeout=280)[1]
        took = time.time() - (tmp_path / "lost").stat().st_mtime
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
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
