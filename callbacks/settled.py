"""Two moments of training that Lightning has no hook for: a step that is settled, and the end of it all."""

from typing import Any, cast

import lightning as L
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class SettledLoop(_TrainingEpochLoop):
    """Calls ``on_step_settled(trainer, pl_module)`` of the callbacks that have it, after each optimiser step.

    Lightning's own last hook of a step comes before its metrics are logged and before its validation. A run that
    goes on from a checkpoint of that moment lacks both.
    """

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self.restarting = False  # nothing of a settled step is left to be done again

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        if self._should_accumulate():
            return
        _call(self.trainer, "on_step_settled")


class ClosedLoop(_FitLoop):
    """Calls ``on_training_over(trainer, pl_module)`` of the callbacks that have it, also with no step left to take.

    Lightning's ``on_train_end`` is not called in a run that goes on from its last step.
    """

    def run(self) -> None:
        super().run()
        _call(self.trainer, "on_training_over")


def _call(trainer: L.Trainer, hook: str) -> None:
    for callback in cast(Any, trainer).callbacks:
        if hasattr(callback, hook):
            getattr(callback, hook)(trainer, trainer.lightning_module)


def settle(trainer: L.Trainer) -> None:
    """Have the trainer call both hooks."""
    # in place: the loops and the validation loop within them know their data already
    loop: Any = trainer.fit_loop
    loop.__class__, loop.epoch_loop.__class__ = ClosedLoop, SettledLoop
