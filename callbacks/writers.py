"""Where watchers write: the TensorBoard files of global rank zero."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary


def writers(trainer: L.Trainer) -> list[Any]:
    """The SummaryWriters to write to now; none on other ranks, during the sanity check or without TensorBoard."""
    if trainer.sanity_checking or not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def curve_step(trainer: L.Trainer) -> int:
    """The step at which Lightning writes what is measured now.

    It counts from 0, and so is one behind ``global_step`` in a validation. What a validation shows stands at one step,
    or a run that goes on could not tell what is behind its checkpoint.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def add_picture(writer: Any, tag: str, first: Image.Image, encoded: bytes, step: int) -> None:
    """Write an encoded picture (PNG, GIF) as it is, where ``add_image`` would decode it; ``first`` tells the size."""
    picture = Summary.Image(height=first.height, width=first.width, colorspace=3, encoded_image_string=encoded)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)
