import json
import os
import time
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import Progress
from callbacks.preemption import Preempted


class Losing(BoringModel):
    """Its loss is the number of the batch; ``at`` a batch it does what ``act`` says."""

    def __init__(self, at: int = -1, act=None) -> None:
        super().__init__()
        self.at, self.act = at, act
        self.seen: list[dict] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(record(Path(self.trainer.default_root_dir)))
        if batch_idx == self.at:
            self.act()
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", float(batch_idx))
        return loss


def record(folder) -> dict:
    return json.loads((folder / "progress.json").read_text())


def trainer(folder, every_seconds: float = 0.0, **options) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[Progress(every_seconds)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        max_steps=5,
        **options,
    )


def leave():
    raise Preempted


def fail():
    raise RuntimeError("as it happens")


def test_a_run_tells_each_step_and_that_it_has_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    begin, model = time.time(), Losing()
    trainer(tmp_path).fit(model)
    assert [(seen["state"], seen["step"], seen["loss"]) for seen in model.seen] == [
        ("running", 0, None),
        *[("running", step, step - 1.0) for step in range(1, 5)],
    ]
    end = record(tmp_path)
    assert begin <= end["started"] <= end["updated"] <= time.time()
    known = {"state": "finished", "step": 5, "max_steps": 5, "loss": 4.0, "started_at_step": 0, "starts": 1}
    assert known | {"job": "42", "world_size": 1, "process": os.getpid()} == {
        key: value for key, value in end.items() if key not in {"started", "updated", "host"}
    }
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_run_that_is_still_loading_has_no_first_step(tmp_path):
    class Loading(BoringModel):
        def configure_model(self):
            self.seen = record(tmp_path)

    (tmp_path / "progress.json").write_text('{"state": "preempted", "step": 3, "starts": 4}')
    model = Loading()
    trainer(tmp_path).fit(model)
    seen = {key: model.seen[key] for key in ("state", "step", "started_at_step", "starts")}
    assert seen == {"state": "running", "step": 3, "started_at_step": None, "starts": 5}
    assert record(tmp_path)["started_at_step"] == 0


def test_between_records_nothing_is_written_but_the_last_step(tmp_path):
    model = Losing()
    trainer(tmp_path, every_seconds=1000).fit(model)
    assert [seen["step"] for seen in model.seen] == [0, 1, 1, 1, 1]
    assert record(tmp_path)["step"] == 5


def test_a_preempted_run_says_so_and_the_next_start_counts_on(tmp_path):
    with pytest.raises(SystemExit):
        trainer(tmp_path, every_seconds=1000).fit(Losing(at=3, act=leave))
    assert (record(tmp_path)["state"], record(tmp_path)["step"]) == ("preempted", 3)
    again = Losing(at=0, act=fail)
    with pytest.raises(RuntimeError, match="as it happens"):
        trainer(tmp_path).fit(again)
    assert (again.seen[0]["state"], again.seen[0]["starts"]) == ("running", 2)
    assert (record(tmp_path)["state"], record(tmp_path)["starts"]) == ("failed", 2)


def test_a_test_after_the_fit_is_part_of_the_run_but_one_on_its_own_is_not(tmp_path):
    class Tested(BoringModel):
        def test_step(self, batch, batch_idx):
            self.state = record(tmp_path)["state"]
            return super().test_step(batch, batch_idx)

    run, model = trainer(tmp_path), Tested()
    run.fit(model)
    run.test(model, verbose=False)
    assert model.state == "running"
    assert record(tmp_path)["state"] == "finished"
    (tmp_path / "progress.json").write_text('{"state": "preempted"}')
    trainer(tmp_path).test(model, verbose=False)
    assert record(tmp_path) == {"state": "preempted"}


def test_a_damaged_record_is_begun_anew(tmp_path):
    (tmp_path / "progress.json").write_text('{"state": "runn')
    trainer(tmp_path).fit(Losing())
    assert record(tmp_path)["starts"] == 1


def test_a_record_that_cannot_be_written_does_not_end_the_run(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    model = BoringModel()
    with pytest.warns(UserWarning, match=r"progress\.json: cannot be written .*; the run goes on without it"):
        trainer(tmp_path / "run").fit(model)
    assert model.trainer.global_step == 5
