"""A checkpoint that all ranks write: a folder of safetensors, a shard each, that is whole or absent.

``step=N.ckpt/`` holds the ranks' files and ``meta.pt``: what is no tensor of the network or the optimiser. It is
written as ``.step=N.ckpt.tmp``, synced and renamed, so that the name alone says that it is whole. A folder that is
replaced bears the name ``step=N.old.ckpt`` meanwhile, whole too. Nothing in it is code: safetensors are plain numbers,
and ``meta.pt`` is read by torch's weights-only unpickler.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from traceback import StackSummary
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from skeleton_llm.whole import sync_folder, whole

T = TypeVar("T")
REST = "meta.pt"  # Lightning's name for it
WEIGHTS = "state_dict."  # what the names of the network's tensors begin with
_FILES = "shards"
_FILE_BYTES = 2**30  # of a rank's file: one at a time is formed in memory


def write(path: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Replace ``path``; all ranks take part, each with its share of the same ``tensors``, and rank 0's ``rest`` counts.

    Raises:
        OSError: on all ranks, where one of them could not write; ``path`` is what it was.
    """
    part = path.with_name(f".{path.name}.tmp")
    try:
        _by_rank_0(partial(_make_room, part))
        with _alone():
            save({**tensors}, storage_writer=_writer(part, tensors))
        _by_rank_0(partial(_finish, part, path, {**rest, _FILES: _sizes(part)}))
    except CheckpointException as error:
        rank, reason = _first(error)
        if not isinstance(reason, OSError):
            raise RuntimeError(f"{path}: rank {rank} could not write its part: {reason}") from error
        raise OSError(
            f"{path}: rank {rank} cannot write its part ({reason.strerror}); make room or give the folder back, and"
            " start the same command again: the checkpoints before this one are whole"
        ) from error
    finally:
        if _rank() == 0:
            shutil.rmtree(part, ignore_errors=True)


def contents(path: Path) -> tuple[dict[str, Any], set[str]]:
    """What a whole folder holds beside tensors, and their names; rank 0 looks and tells all.

    Raises:
        ValueError: on all ranks, where the folder is not whole, or holds code.
    """

    def look() -> tuple[dict[str, Any], set[str]]:
        return read_rest(path), {*HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata}

    try:
        return _by_rank_0(look)
    except CheckpointException as error:
        raise ValueError(str(_first(error)[1])) from error


def fill(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read what ``tensors`` name into them; all ranks take part, each reads its own share.

    Raises:
        ValueError: on all ranks, where one of the tensors is missing or has another shape.
    """
    try:
        found = _by_rank_0(HuggingFaceStorageReader(str(path)).read_metadata)
        with _alone():
            load({**tensors}, storage_reader=_Told(path, found))
    except CheckpointException as error:
        raise ValueError(f"{path}: {_first(error)[1]}; is it from another tuning?") from error


class _Told(HuggingFaceStorageReader):
    """Knows what is where without opening every file: of 1,000 ranks each would open those of all."""

    def __init__(self, path: Path, found: Metadata) -> None:
        super().__init__(str(path))
        self.found = found

    def read_metadata(self) -> Metadata:
        return self.found


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, file or folder, as one process has it; of a folder the weights and no state of the optimiser.

    Raises:
        ValueError: the folder is not whole.
    """
    if not path.is_dir():
        return torch.load(path, map_location="cpu", weights_only=True)
    rest, reader = read_rest(path), HuggingFaceStorageReader(str(path))
    found: dict[str, Any] = reader.read_metadata().state_dict_metadata
    weights = {name: torch.empty(x.size, dtype=x.properties.dtype) for name, x in found.items() if _is_weight(name)}
    with _alone():
        load(weights, storage_reader=reader, no_dist=True)
    rest.pop("optimizer_states", None)  # without the averages
    return {**rest, "state_dict": {name.removeprefix(WEIGHTS): tensor for name, tensor in weights.items()}}


def read_rest(path: Path) -> dict[str, Any]:
    """What a whole folder holds beside tensors.

    Raises:
        ValueError: the folder is not whole, or holds code.
    """
    try:
        rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=True)
        cut = cut_off(path, rest)
    except UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values, which is not loaded") from error
    except (OSError, EOFError, RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no whole checkpoint; name another one of {path.parent}") from error
    if cut:
        raise ValueError(f"{path}: {cut[0]} is cut off or gone; name another checkpoint of {path.parent}")
    del rest[_FILES]
    return rest


def are_in(path: Path) -> bool:
    """Whether ``path`` is such a folder, whole or not; not a run's folder that holds checkpoints."""
    return (path / REST).is_file()


def cut_off(path: Path, rest: Mapping[str, Any]) -> list[str]:
    """Files that are shorter than when they were written, or gone."""
    sizes: dict[str, int] = rest[_FILES]
    return [name for name, size in sizes.items() if not (file := path / name).is_file() or file.stat().st_size != size]


def remove(path: Path) -> None:
    """Delete a checkpoint, file or folder; a kill in the middle leaves nothing that looks like one."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith("."):
        doomed = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        path = path.rename(doomed)
    shutil.rmtree(path)


def sweep(folder: Path) -> None:
    """Clear away what a killed run left half written, half replaced or half deleted."""
    for doomed in folder.glob(".*.ckpt.tmp"):
        shutil.rmtree(doomed)
    for old in folder.glob("*.old.ckpt"):
        path = old.with_name(old.name.replace(".old.ckpt", ".ckpt"))
        if path.exists():
            remove(old)
        else:
            old.rename(path)


def _is_weight(name: str) -> bool:
    return name.startswith(WEIGHTS)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextmanager
def _alone() -> Iterator[None]:
    """Without the warning that one process is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*assuming the intent is to (save|load) in a single process.*")
        yield


def _by_rank_0(act: Callable[[], T]) -> T:
    """What rank 0 does, or learns for all, while the others wait; what fails there is raised on all."""
    told: list[Any] = [None, None]
    if _rank() == 0:
        try:
            told[0] = act()
        except Exception as error:  # noqa: BLE001  (else the others would wait for ever)
            told[1] = CheckpointException("rank 0", {0: (error, StackSummary())})
    if distributed.is_initialized():
        distributed.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return cast(T, told[0])


def _make_room(part: Path) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    sweep(part.parent)
    part.mkdir()


def _writer(part: Path, tensors: Mapping[str, Tensor]) -> HuggingFaceStorageWriter:
    """One that gives each rank files of about ``_FILE_BYTES``."""
    ranks, total, files = distributed.get_world_size() if distributed.is_initialized() else 1, 0, {}
    for name, tensor in tensors.items():
        files[name] = total // (_FILE_BYTES * ranks) + 1
        total += tensor.nbytes
    return HuggingFaceStorageWriter(str(part), fqn_to_index_mapping=files, save_distributed=True)


def _sizes(part: Path) -> dict[str, int]:
    """Bytes of all ranks' files; each asks for its own, which other nodes may not see at once."""
    mine = {file.name: file.stat().st_size for file in part.glob(f"shard-{_rank() + 1:05d}-*")}
    sizes = [mine]
    if distributed.is_initialized():
        sizes *= distributed.get_world_size()
        distributed.all_gather_object(sizes, mine)
    return {name: size for ranks in sizes for name, size in ranks.items()}


def _finish(part: Path, path: Path, rest: dict[str, Any]) -> None:
    buffer = BytesIO()  # torch would turn a full disk's error into one of its own
    torch.save(rest, buffer)
    with whole(part / REST) as file:
        file.write(buffer.getbuffer())
    old = path.with_name(f"{path.stem}.old{path.suffix}")
    if path.exists():
        path.rename(old)
    part.rename(path)
    sync_folder(path.parent)
    if old.exists():
        remove(old)


def _first(error: CheckpointException) -> tuple[int, BaseException]:
    """The first rank that failed, and why."""
    rank = min(error.failures)
    return rank, error.failures[rank][0]
