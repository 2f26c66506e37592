"""Stage 1's product: a frozen network that writes and reads action sentences, kept as a folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skeleton_llm.networks.vqvae import VQVAE, VQVAEConfig
from skeleton_llm.skeletons import Clip, Preprocess, register_layout

_FORMAT = 1


class ActionTokenizer(nn.Module):
    """Skeleton clips to action sentences (token indices) and back.

    Attributes:
        vqvae: the network, always in eval mode and without gradients.
        preprocess: how a raw clip is cut and aligned before it.
        info: where it comes from: the dataset's identity and the language model whose width and words it was made for.
    """

    def __init__(self, vqvae: VQVAE, preprocess: Preprocess, info: Mapping[str, Any]) -> None:
        """Freeze the network."""
        super().__init__()
        self.vqvae = vqvae.requires_grad_(requires_grad=False).eval()
        self.preprocess, self.info = preprocess, dict(info)

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
        """M, the persons it has channels for."""
        return self.vqvae.features.num_persons

    @property
    def dim(self) -> int:
        """D, the width of a token."""
        return self.vqvae.dim

    @property
    def num_codes(self) -> int:
        """N, the tokens of the codebook."""
        return self.vqvae.config.num_codes

    @torch.no_grad()
    def encode(self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]) -> Int[Tensor, "B L"]:
        """Action sentences of preprocessed clips."""
        return self.vqvae.encode(joints, persons)

    @torch.no_grad()
    def embed(
        self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """The tokens' vectors (tangent space, norm about 1) and which of them count: what a language model reads."""
        indices = self.encode(joints, persons)
        return self.vqvae.quantizer.codebook()[indices], torch.ones_like(indices, dtype=torch.bool)

    @torch.no_grad()
    def latents(self, joints: Float[Tensor, "B T M V 3"], persons: Bool[Tensor, "B M"]) -> Float[Tensor, "B L D"]:
        """The normalised latents before they are quantised."""
        return self.vqvae.quantizer.normalise(self.vqvae.latents(self.vqvae.features(joints, persons)))

    def prepare(self, clip: Clip) -> tuple[Float[Tensor, "1 T M V 3"], Bool[Tensor, "1 M"]]:
        """A raw clip as the network's input; persons beyond its channels are dropped, missing ones stay absent.

        Raises:
            ValueError: the clip has another skeleton layout.
        """
        if clip.layout != self.layout:
            raise ValueError(
                f"{clip.source or 'clip'}: has the layout {clip.layout}, this tokenizer reads {self.layout};"
                " use a tokenizer trained on such skeletons"
            )
        joints, persons = self.preprocess.apply(clip)
        missing = self.num_persons - joints.shape[2]
        if missing > 0:
            joints = torch.cat([joints, joints.new_zeros(*joints.shape[:2], missing, *joints.shape[3:])], dim=2)
            persons = torch.cat([persons, persons.new_zeros(1, missing)], dim=1)
        return joints[:, :, : self.num_persons], persons[:, : self.num_persons]

    def encode_clip(self, clip: Clip) -> list[int]:
        """The action sentence of one raw clip."""
        return self.encode(*self.prepare(clip))[0].tolist()

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "B L"]) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"]]:
        """Joints in metres in the body's frame, and who is there."""
        return self.vqvae.decode(indices)

    def fingerprint(self) -> str:
        """SHA-256 of every weight, by name: two tokenizers with one fingerprint write the same sentences."""
        digest = hashlib.sha256()
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
            vqvae = VQVAE(
                VQVAEConfig(**{**config["network"], "token_norms": tuple(config["network"]["token_norms"])}),
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
