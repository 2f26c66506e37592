"""Checkpoints that are whole or absent, on any file system, and hold nothing but data."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from skeleton_llm import shards
from skeleton_llm.whole import whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, sync, rename.

    Lightning goes through TMPDIR: on another file system its move is a plain copy, and a kill in the middle of it
    destroys the last good checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace ``path`` in one step.

        Raises:
            OSError: there is no room, or the folder cannot be written; what was there before is as it was.
        """
        del storage_options
        target = Path(path)
        try:
            with whole(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch hides the system's reason in a RuntimeError's context
            reason = _system_error(error)
            if reason is None:
                raise
            raise OSError(
                f"{target}: the checkpoint could not be written ({reason.strerror or reason}); those before it are"
                " whole: make room and start the same command again"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors and plain values; by default onto the CPU. Of a folder of shards all but the optimiser's state.

        Raises:
            ValueError: the file holds code.
        """
        del weights_only
        if shards.are_in(Path(path)):
            return shards.read(Path(path))
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(f"{path} holds more than tensors and plain values, which is not loaded") from error


def _system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error that ``error`` comes from."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
