"""Stage 1's product: a frozen network that writes and reads action sentences, kept as a folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from skeleton_llm.networks.vqvae import VQVAE, VQVAEConfig
from skeleton_llm.skeletons import Clip, Preprocess, register_layout

Skeletons = Clip | np.ndarray | Tensor

_FORMAT = 2


class Prepared(NamedTuple):
    """The network's input; ``lengths`` are the frames that count, None where all do."""

    joints: Float[Tensor, "B T M V 3"]
    persons: Bool[Tensor, "B M"]
    lengths: Int[Tensor, " B"] | None


def _several(skeletons: Skeletons | Sequence[Skeletons]) -> Sequence[Skeletons]:
    if isinstance(skeletons, Clip):
        return [skeletons]
    if isinstance(skeletons, np.ndarray | Tensor):
        return list(skeletons) if skeletons.ndim == 5 else [skeletons]
    return skeletons


class ActionTokenizer(nn.Module):
    """Skeleton clips to action sentences (token indices) and back.

    Example:
        >>> tokenizer = ActionTokenizer.from_pretrained("runs/demo/stage1/tokenizer")  # doctest: +SKIP
        >>> tokens, mask = tokenizer.encode(joints)  # [T, M, V, 3] in metres, or a list of them  # doctest: +SKIP
        >>> skeletons = tokenizer.decode(tokens, mask)  # [B, T, M, V, 3]  # doctest: +SKIP

    Attributes:
        vqvae: the network, always in eval mode and without gradients.
        preprocess: how a raw clip is cut and aligned before it.
        info: where it comes from: the dataset's identity and the language model whose width and words it was made for.
    """

    def __init__(self, vqvae: VQVAE, preprocess: Preprocess, info: Mapping[str, Any]) -> None:
        """Freeze the network."""
        super().__init__()
        self.vqvae = vqvae.requires_grad_(requires_grad=False).eval()
        # windows are for training a tokenizer; its sentences are of whole clips
        self.preprocess = replace(preprocess, length="whole") if preprocess.length == "window" else preprocess
        self.info = dict(info)

    def train(self, mode: bool = True) -> "ActionTokenizer":  # noqa: FBT001, FBT002
        """Stays in eval mode whatever its owner does."""
        del mode
        return super().train(mode=False)

    @property
    def layout(self) -> str:
        """Name of the skeleton layout it reads."""
        return self.vqvae.features.layout.name

    @property
    def num_persons(self) -> int:
        """M, the persons it reads."""
        return self.vqvae.num_persons

    @property
    def dim(self) -> int:
        """D, the width of a token."""
        return self.vqvae.dim

    @property
    def num_codes(self) -> int:
        """N, the tokens of the codebook."""
        return self.vqvae.config.num_codes

    def sentence_lengths(self, frames: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """Tokens of the sentences that it writes for clips of so many frames, padding of ``persons`` included."""
        config, given = self.vqvae.config, self.preprocess
        taken = np.full_like(frames, given.frames) if given.length == "resize" else np.minimum(frames, given.longest)
        steps = -(-taken // 2**config.downsamples)
        return steps * config.tokens_per_step * (self.num_persons if self.vqvae.apart else 1)

    @property
    def longest_sentence(self) -> int:
        """Tokens of the longest sentence."""
        return int(self.sentence_lengths(np.array([2**30]))[0])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.vqvae.quantizer.direction.device

    @torch.no_grad()
    def encode(
        self, skeletons: Skeletons | Sequence[Skeletons], *, batch_size: int = 64
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Action sentences of raw clips, and which of their tokens count (clips may differ in length).

        Args:
            skeletons: a clip or several: ``Clip`` or joints [T, M, V, 3] or [T, V, 3] in metres, in the tokenizer's
                layout; a tensor [B, T, M, V, 3] is several.
            batch_size: clips encoded at once.

        Raises:
            ValueError: a clip has another skeleton layout or shape.
        """
        clips = self.clips(skeletons)
        parts = [
            self.sentences(*self.batch(clips[first : first + batch_size])) for first in range(0, len(clips), batch_size)
        ]
        if not parts:
            raise ValueError("no clips to encode: expected at least one")
        # of one sentence a person each is padded: decode parts them evenly
        people = self.num_persons if self.vqvae.apart else 1
        longest = max(part.shape[1] for part, _ in parts) // people
        padded = [
            [F.pad(tensor.unflatten(1, (people, -1)), (0, longest - tensor.shape[1] // people)) for tensor in part]
            for part in parts
        ]
        tokens, mask = (torch.cat(tensors).flatten(1) for tensors in zip(*padded, strict=True))
        return tokens, mask

    @torch.no_grad()
    def decode(
        self, tokens: Int[Tensor, "*B L"], mask: Bool[Tensor, "*B L"] | None = None
    ) -> Float[Tensor, "*B T M V 3"]:
        """Joints in metres in the body's frame, as ``encode`` saw them; who is absent, and what is masked, is 0.

        Raises:
            ValueError: a token that the codebook does not have, no whole number of steps, or no mask where a clip has
                a sentence for each person.
        """
        tokens = tokens.to(self.device)
        if len(tokens.flatten()) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.num_codes:
            raise ValueError(
                f"tokens must lie in 0 to {self.num_codes - 1}, got {int(tokens.min())} to {int(tokens.max())}"
            )
        if self.vqvae.apart and mask is None:
            raise ValueError("this tokenizer writes a sentence a person: decode wants the mask that encode gave")
        step = self.vqvae.config.tokens_per_step * (self.num_persons if self.vqvae.apart else 1)
        if tokens.shape[-1] % step or tokens.shape[-1] == 0:
            raise ValueError(f"a sentence of this tokenizer has a multiple of {step} tokens, got {tokens.shape[-1]}")
        batch = tokens.reshape(-1, tokens.shape[-1])
        joints, persons = self.vqvae.decode(batch, None if mask is None else mask.to(self.device).reshape(batch.shape))
        joints = joints * persons[:, None, :, None, None]
        return joints.reshape(*tokens.shape[:-1], *joints.shape[1:])

    @torch.no_grad()
    def sentences(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Action sentences of preprocessed clips, and which of their tokens count; within autocast the same."""
        with torch.autocast(self.device.type, enabled=False):
            return self.vqvae.encode(*self._channels(joints, persons), lengths)

    @torch.no_grad()
    def embed(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """The tokens' vectors (tangent space, norm about 1) and which of them count: what a language model reads."""
        tokens, mask = self.sentences(joints, persons, lengths)
        return self.vectors(tokens), mask

    @torch.no_grad()
    def vectors(self, tokens: Int[Tensor, "*B L"]) -> Float[Tensor, "*B L D"]:
        """Each token's vector in tangent space."""
        return F.embedding(tokens, self.vqvae.quantizer.codebook())

    @torch.no_grad()
    def latents(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """The normalised latents before they are quantised, and which of them count."""
        with torch.autocast(self.device.type, enabled=False):
            return self.vqvae.normalised_latents(*self._channels(joints, persons), lengths)

    def batch(self, clips: Sequence[Clip]) -> Prepared:
        """Raw clips as the network's input, on its device.

        Persons beyond its channels are dropped, missing ones stay absent.

        Raises:
            ValueError: a clip has another skeleton layout.
        """
        parts = []
        for clip in clips:
            if clip.layout != self.layout:
                raise ValueError(
                    f"{clip.source or 'clip'}: has the layout {clip.layout}, this tokenizer reads {self.layout};"
                    " use a tokenizer trained on such skeletons"
                )
            joints, persons = self._channels(*self.preprocess.apply(clip))
            parts.append((joints[0], persons[0]))
        lengths = None
        if self.preprocess.length != "resize":
            lengths = torch.tensor([len(joints) for joints, _ in parts], device=self.device)
        padded = nn.utils.rnn.pad_sequence([joints for joints, _ in parts], batch_first=True)
        return Prepared(padded.to(self.device), torch.stack([there for _, there in parts]).to(self.device), lengths)

    def _channels(self, joints: Tensor, persons: Tensor) -> tuple[Tensor, Tensor]:
        """Persons beyond the network's are dropped, missing ones absent: other data may hold another number."""
        missing = max(0, self.num_persons - joints.shape[2])
        joints, persons = F.pad(joints, (0, 0, 0, 0, 0, missing)), F.pad(persons, (0, missing))
        return joints[:, :, : self.num_persons], persons[:, : self.num_persons]

    def clips(self, skeletons: Skeletons | Sequence[Skeletons]) -> list[Clip]:
        """What ``encode`` takes, as clips.

        Raises:
            ValueError: joints of another shape than the layout's.
        """
        return [self._clip(one) for one in _several(skeletons)]

    def _clip(self, skeleton: Skeletons) -> Clip:
        if isinstance(skeleton, Clip):
            return skeleton
        joints = torch.as_tensor(skeleton).detach().cpu().float().numpy()
        joints = joints[:, None] if joints.ndim == 3 else joints
        if joints.ndim != 4 or joints.shape[2:] != (self.vqvae.features.layout.num_joints, 3) or len(joints) == 0:
            raise ValueError(
                f"a clip must have joints [T, M, {self.vqvae.features.layout.num_joints}, 3] ({self.layout}),"
                f" got {list(torch.as_tensor(skeleton).shape)}"
            )
        return Clip(joints, self.layout)

    def fingerprint(self) -> str:
        """SHA-256 of the sizes and of every weight: one fingerprint, one sentence for the same preprocessed clip."""
        shape = {"network": asdict(self.vqvae.config), "layout": self.layout, "num_persons": self.num_persons}
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
        for name, tensor in sorted(self.vqvae.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``config.json``, ``dataset.json`` and ``model.safetensors`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.vqvae.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        config = {
            "format": _FORMAT,
            "layout": self.layout,
            "num_persons": self.num_persons,
            "dim": self.dim,
            "network": asdict(self.vqvae.config),
            "preprocess": asdict(self.preprocess),
            "fingerprint": self.fingerprint(),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "dataset.json").write_text(json.dumps(self.info, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "ActionTokenizer":
        """Read a folder that ``save_pretrained`` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the weights are not those that the config names.
        """
        folder = Path(folder)
        for name in ("config.json", "dataset.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f'{folder / name} is missing: expected the action tokenizer that stage 1 exports; run "make stage1"'
                )
        try:
            config = json.loads((folder / "config.json").read_text())
            info = json.loads((folder / "dataset.json").read_text())
            if "layout_definition" in info.get("dataset", {}):
                register_layout(info["dataset"]["layout_definition"])
            if config["format"] != _FORMAT:
                raise KeyError(f"written in format {config['format']}, this version reads {_FORMAT}")
            sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["network"].items()}
            vqvae = VQVAE(
                VQVAEConfig(**sizes),
                layout=config["layout"],
                num_persons=config["num_persons"],
                dim=config["dim"],
            )
            vqvae.load_state_dict(load_file(folder / "model.safetensors"))
            tokenizer = cls(vqvae, Preprocess(**config["preprocess"]), info)
        except (AttributeError, json.JSONDecodeError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{folder}: not a whole action tokenizer ({error}); export it again from stage 1"
            ) from error
        if tokenizer.fingerprint() != config["fingerprint"]:
            raise ValueError(f"{folder}: the weights are not those that config.json was written for; export it again")
        return tokenizer
