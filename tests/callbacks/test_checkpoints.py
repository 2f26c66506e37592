import math
import os
import signal
import subprocess
import time

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import AtomicCheckpointIO, Checkpoints, Export, Preemption, StepSeed
from callbacks.preemption import time_limit


class Measured(BoringModel):
    """Learns from noise alone; its validations measure what they are told to."""

    def __init__(self, measures=()) -> None:
        super().__init__()
        self.measures, self.exported = list(measures), 0

    def training_step(self, batch, batch_idx):
        out = super().training_step(torch.rand_like(batch), batch_idx)
        self.log("train/loss", out["loss"])
        return out

    def validation_step(self, batch, batch_idx):
        return None

    def on_validation_epoch_end(self):
        self.log("val/measure", self.measures[self.trainer.global_step // 2 - 1] if self.measures else 0.0)
        self.log("val/weight", self.layer.weight.sum())

    def export(self, folder):
        self.exported += 1


def fit(folder, model=None, *, ckpt_path=None, purge=None, logger=False, **options) -> L.Trainer:
    torch.manual_seed(0)
    model = model or Measured()
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        limit_val_batches=1,
        check_val_every_n_epoch=None,
        max_epochs=-1,
        plugins=[AtomicCheckpointIO()],
        logger=TensorBoardLogger(folder, name="", version="", purge_step=purge) if logger else False,
        **{"max_steps": 8, "val_check_interval": 2, **options},
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


def names(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_the_newest_and_the_best_are_kept(tmp_path):
    keep = Checkpoints(every=2, newest=2, best="val/measure")
    fit(tmp_path, Measured([0.1, 0.7, 0.3, math.nan]), callbacks=[keep])
    assert names(tmp_path) == {"step=6.ckpt", "step=8.ckpt", "best.ckpt"}
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_that_goes_on_knows_what_was_best(tmp_path):
    measures = [0.1, 0.7, 0.3, 0.2]
    fit(tmp_path, Measured(measures), callbacks=[Checkpoints(every=2, best="val/measure")], max_steps=4)
    on = tmp_path / "checkpoints/step=4.ckpt"
    fit(tmp_path, Measured(measures), callbacks=[Checkpoints(every=2, best="val/measure")], ckpt_path=on)
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 4


def test_less_can_be_better(tmp_path):
    fit(tmp_path, Measured([0.7, 0.1, 0.3, 0.2]), callbacks=[Checkpoints(every=8, best="val/measure", mode="min")])
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 4


def test_a_measure_that_nobody_takes_is_named_with_those_that_are(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"best is val/length.* it measures val/measure, val/weight"):
        fit(tmp_path, callbacks=[Checkpoints(every=2, best="val/length")])


def test_what_a_killed_process_left_half_written_is_removed_and_other_files_stay(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / ".step=3.ckpt.tmp").mkdir(parents=True)
    (folder / ".step=5.ckpt.123.tmp").write_text("half")
    (folder / "mine.ckpt").write_text("a user's")
    fit(tmp_path, callbacks=[Checkpoints(every=4, newest=1)])
    assert names(tmp_path) == {"step=8.ckpt", "mine.ckpt"}


def test_checkpoints_fall_on_optimiser_steps_only(tmp_path):
    fit(tmp_path, callbacks=[Checkpoints(every=1, newest=99)], accumulate_grad_batches=3, max_steps=3)
    assert names(tmp_path) == {f"step={step}.ckpt" for step in (1, 2, 3)}
    saved = torch.load(tmp_path / "checkpoints/step=2.ckpt", weights_only=True)
    progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    assert progress["completed"] == progress["ready"] == 6  # nothing of a step is under way


def scalars(folder) -> dict:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("stop", [3, 4])  # at a step with and one without a validation
def test_curves_go_on_without_gaps_and_doubled_steps(tmp_path, stop, accumulate):
    same = {"accumulate_grad_batches": accumulate, "val_check_interval": 2 * accumulate, "logger": True}
    callbacks = lambda: [Checkpoints(every=1), StepSeed(3)]  # noqa: E731
    fit(tmp_path / "whole", callbacks=callbacks(), **same)
    fit(tmp_path / "cut", callbacks=callbacks(), **{**same, "max_steps": stop + 2})  # two steps are lost
    for lost in (stop + 1, stop + 2):
        (tmp_path / f"cut/checkpoints/step={lost}.ckpt").unlink()
    fit(tmp_path / "again", callbacks=[Checkpoints(every=1, newest=9), StepSeed(3)], **{**same, "max_steps": stop})
    time.sleep(1.1)  # event files are read in the order of the seconds in their names
    on = tmp_path / f"again/checkpoints/step={stop}.ckpt"
    fit(tmp_path / "cut", callbacks=callbacks(), ckpt_path=on, purge=stop, **same)
    one, two = scalars(tmp_path / "whole"), scalars(tmp_path / "cut")
    assert one == two
    assert [step for step, _ in two["train/loss"]] == list(range(8))
    assert [step for step, _ in two["val/weight"]] == [1, 3, 5, 7]
    one, two = (torch.load(tmp_path / f"{run}/checkpoints/step=8.ckpt", weights_only=True) for run in ("whole", "cut"))
    assert one["state_dict"]["layer.weight"].equal(two["state_dict"]["layer.weight"])


def test_the_product_is_written_once_also_by_a_run_with_nothing_left_to_train(tmp_path):
    model = Measured()
    fit(tmp_path, model, callbacks=[Checkpoints(every=8), Export("product")])
    assert model.exported == 1
    model = Measured()
    again = [Checkpoints(every=8), Export("product")]
    fit(tmp_path, model, callbacks=again, ckpt_path=tmp_path / "checkpoints/step=8.ckpt")
    assert model.exported == 1


def test_slurms_time_limit_stops_a_run_without_any_signal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 100))
    fit(tmp_path, callbacks=[Preemption(lead=50), Checkpoints(every=8)])
    assert names(tmp_path) == {"step=8.ckpt"}
    with pytest.raises(SystemExit) as left:
        fit(tmp_path / "late", callbacks=[Preemption(lead=120), Checkpoints(every=8)])
    assert left.value.code == 85
    assert names(tmp_path / "late") == {"step=1.ckpt"}
    assert "asked to stop: saved" in capsys.readouterr().err
    for step in (1, 2):
        again = tmp_path / f"late/checkpoints/step={step}.ckpt"
        with pytest.raises(SystemExit):
            fit(tmp_path / "late", callbacks=[Preemption(lead=120), Checkpoints(every=8)], ckpt_path=again)
    assert names(tmp_path / "late") == {"step=2.ckpt", "step=3.ckpt"}  # no more of them than Checkpoints keeps


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("squeue", 30), OSError(), None])
def test_a_slurm_that_does_not_answer_stops_no_run(monkeypatch, error):
    def ask(*_, **__):
        if error is not None:
            raise error
        return subprocess.CompletedProcess([], 1, stdout="")

    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr("shutil.which", lambda _: "squeue")
    monkeypatch.setattr("subprocess.run", ask)
    assert time_limit() is None


def test_a_signal_in_the_middle_of_a_validation_saves_the_step_that_was_validated(tmp_path):
    class Signalled(Measured):
        def validation_step(self, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        fit(tmp_path, Signalled(), callbacks=[Preemption(), Checkpoints(every=8)], logger=True)
    assert left.value.code == 85
    assert names(tmp_path) == {"step=2.ckpt"}
    assert [step for step, _ in scalars(tmp_path)["val/weight"]] == [1]
    assert signal.getsignal(signal.SIGINT) is before  # given back to whoever called


def test_a_signal_in_the_test_leaves_at_once(tmp_path):
    class Signalled(Measured):
        def test_step(self, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGTERM)
            self.tested = batch_idx

    model = Signalled()
    trainer = fit(tmp_path, model, callbacks=[Preemption()], max_steps=2, enable_checkpointing=False)
    with pytest.raises(SystemExit) as left:
        trainer.test(model, verbose=False)
    assert left.value.code == 85
    assert model.tested == 0
