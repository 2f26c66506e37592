"""Action sentences written once and kept on disk: what stage 2 reads instead of skeletons.

B clips, W views, L tokens a sentence.
"""

import hashlib
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.clips import ClipBatches
from datamodules.stream import Key
from skeleton_llm.networks import ActionTokenizer

_AT_ONCE = 256  # clips encoded together
_VERSION = 1  # of how clips are prepared, augmented and tokenised: a change of these must change it too


class SentenceBatches(Dataset[dict[str, Tensor]]):
    """Clips as their action sentences; asked for keys (pass, index) it gives the whole batch at once.

    A batch has ``tokens`` [B, W, L] and ``mask`` [B, W, L], ``labels`` [B] and ``index`` [B]. W counts the views that
    the tokenizer's preprocessing asks answers to be averaged over; training has one.

    Args:
        clips: the clips.
        tokenizer: writes the sentences.
        folder: where they are kept, a file for each tokenizer, dataset, choice of clips and augmentation draw.
        draws: augmented draws of every clip; pass k reads draw k modulo ``draws``. 0 for none, all views.
    """

    def __init__(self, clips: ClipBatches, tokenizer: ActionTokenizer, folder: Path, draws: int) -> None:
        """Name the files."""
        self.clips, self.tokenizer, self.folder, self.draws = clips, tokenizer, folder, draws
        self._written_by = tokenizer.fingerprint()  # now: a data worker, a fork, may not touch weights on a GPU
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def _keys(self) -> list[int]:
        return list(range(self.draws)) or [-1]

    def path(self, draw: int) -> Path:
        """The file of one draw; -1 for none."""
        clips, augmentation = self.clips, None
        if draw >= 0 and clips.augmentation is not None:
            augmentation = [asdict(clips.augmentation), clips.seed, draw]
        made_by = {
            "version": _VERSION,
            "tokenizer": self._written_by,
            "preprocess": asdict(clips.preprocess),
            "data": clips.data.info["content_hash"],
            "clips": hashlib.sha256(clips.rows.astype(np.int64).tobytes()).hexdigest(),
            "augmentation": augmentation,
        }
        name = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.npz"

    def write(self) -> None:
        """Write what is missing.

        Raises:
            OSError: the folder cannot be written.
        """
        for draw in self._keys():
            if _read(self.path(draw)) is None:
                self._write(draw)

    @torch.no_grad()
    def _write(self, draw: int) -> None:
        device, layout = self.tokenizer.device, self.tokenizer.vqvae.features.layout
        sentences: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        for first in range(0, len(self.clips), _AT_ONCE):
            keys = [(draw, index) for index in range(first, min(first + _AT_ONCE, len(self.clips)))]
            batch = {name: tensor.to(device) for name, tensor in self.clips.__getitems__(keys).items()}
            views = [batch["joints"]] if draw >= 0 else self.clips.preprocess.views(batch["joints"], layout)
            read = [self.tokenizer.sentences(view, batch["persons"], batch.get("lengths")) for view in views]
            tokens, mask = (torch.stack(tensors, dim=1) for tensors in zip(*read, strict=True))
            sentences.append(tokens[mask].to(torch.int32).cpu().numpy())
            lengths.append(mask.sum(-1).to(torch.int32).cpu().numpy())
        path = self.path(draw)
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            np.savez(file, tokens=np.concatenate(sentences), lengths=np.concatenate(lengths))
        beside.replace(path)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> dict[str, Tensor]:
        draw = keys[0][0] % self.draws if keys and self.draws else -1
        tokens, offsets = self._sentences(draw)
        index = np.array([place for _, place in keys], dtype=np.int64)
        begin, end = offsets[index, :-1], offsets[index, 1:]
        longest = int((end - begin).max(initial=1))
        place = begin[..., None] + np.arange(longest)
        mask = place < end[..., None]
        rows = self.clips.rows[index]
        return {
            "tokens": torch.from_numpy(tokens[np.where(mask, place, 0)].astype(np.int64)),
            "mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.clips.labels[rows]),
            "index": torch.from_numpy(rows),
        }

    def _sentences(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of a draw end to end, and where each clip's views begin and end [clips, W + 1]."""
        if draw not in self._known:
            found = _read(self.path(draw))
            if found is None:
                raise FileNotFoundError(f"{self.path(draw)}: the action sentences are gone; start the run again")
            ends = found["lengths"].astype(np.int64).cumsum().reshape(found["lengths"].shape)
            begins = ends[:, :1] - found["lengths"][:, :1]
            self._known[draw] = found["tokens"], np.concatenate([begins, ends], axis=1)
        return self._known[draw]


def _read(path: Path) -> dict[str, Any] | None:
    """A file's arrays; None where it is missing or damaged."""
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            return {"tokens": file["tokens"], "lengths": file["lengths"]}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
