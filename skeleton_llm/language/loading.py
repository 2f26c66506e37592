"""A causal language model of the Hugging Face world by folder or hub id, its words, its width, its identity."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

hf_logging.disable_progress_bar()
BUILT_IN = Path(__file__).parent / "resources" / "built_in"
_SMALL = ["*.json", "*.model", "*.txt"]
_WEIGHTS = "*.safetensors"
_TABLES = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight")


@dataclass
class LanguageModel:
    """Which language model, and how it is held in memory.

    Args:
        name: ``built-in``, a folder in Hugging Face form, or a hub id.
        revision: commit or tag of a hub id.
        dtype: of the frozen weights; bfloat16 needs an A100 or later, a V100 wants float16.
        quantization: ``nf4`` (QLoRA) or ``int8`` through bitsandbytes.
        attention: ``sdpa`` for GPUs; ``eager`` trains twice as fast on a CPU (measured, short prompts).
        untrained: keep the architecture and draw the weights anew (does the model's knowledge matter?).
    """

    name: str = "built-in"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4", "int8"] = "none"
    attention: Literal["sdpa", "eager"] = "sdpa"
    untrained: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be combined."""
        if self.untrained and self.quantization != "none":
            raise ValueError(
                "llm.untrained draws new weights, which llm.quantization cannot hold; set one of them back"
            )

    def path(self, *, words_only: bool = False) -> Path:
        """The folder, fetched from the hub if need be (``HF_HUB_OFFLINE=1`` never goes online).

        Args:
            words_only: of the hub's weights fetch only the file with the word embeddings: enough for stage 1.

        Raises:
            FileNotFoundError: neither a folder nor a model that the hub or its cache knows.
        """
        folder = BUILT_IN if self.name == "built-in" else Path(self.name).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise FileNotFoundError(
                    f"{folder / 'config.json'} is missing: llm.name must be a model folder in Hugging Face form"
                )
            return folder
        try:
            weights = _words_file(self._fetch(_SMALL)) if words_only else _WEIGHTS
            return self._fetch([*_SMALL, weights])
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"llm.name {self.name!r} is no folder here and could not be had from the Hugging Face hub ({reason});"
                " give a model folder, a hub id, or built-in"
            ) from error

    def _fetch(self, patterns: list[str]) -> Path:
        return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=patterns))

    def config(self) -> Any:
        """The model's own configuration."""
        return AutoConfig.from_pretrained(self.path(words_only=True))

    @property
    def width(self) -> int:
        """D, the width of its word embeddings: the width of a code that shall fit among its words."""
        return int(self.config().hidden_size)

    def words(self) -> Float[Tensor, "V D"]:
        """The input embedding matrix in float32, read alone, without loading the model.

        Raises:
            FileNotFoundError: no safetensors file holds it.
            ValueError: a file is damaged.
        """
        if self.untrained:
            return self.load().get_input_embeddings().weight.detach().float()  # type: ignore[operator]
        folder = self.path(words_only=True)
        tables = (*_TABLES, "lm_head.weight") if self.config().tie_word_embeddings else _TABLES
        named = _words_file(folder)  # comes first, so that no other is opened
        for table in tables:  # the output matrix only where the file holds none of the others
            for file in sorted(folder.glob("*.safetensors"), key=lambda file: (file.name != named, file.name)):
                try:
                    with safe_open(file, framework="pt") as tensors:
                        found = [key for key in tensors.keys() if key.endswith(table)]  # noqa: SIM118  (no mapping)
                        if found:
                            return tensors.get_tensor(found[0]).float()
                except SafetensorError as error:
                    raise ValueError(f"{file}: damaged or cut off ({error}); fetch the model again") from error
        raise FileNotFoundError(
            f"{folder}: no *.safetensors file holds the word embeddings ({', '.join(_TABLES)});"
            " convert the model with transformers' save_pretrained"
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tokenizer, with a padding token."""
        tokenizer = AutoTokenizer.from_pretrained(self.path(words_only=True))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load(self) -> PreTrainedModel:
        """The model with frozen weights, in ``dtype``, on the CPU (quantised ones on the current device)."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        folder = self.path()
        if self.untrained:
            state = torch.get_rng_state()
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder), dtype=dtype, attn_implementation=self.attention
            )
            torch.set_rng_state(state)
        elif self.quantization == "none":
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=self.attention)
        else:
            place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                quantization_config=_quantization(self.quantization, dtype),
                device_map={"": place},
                attn_implementation=self.attention,
            )
        return model.requires_grad_(requires_grad=False)

    def fingerprint(self) -> str:
        """SHA-256 of the word embeddings and the architecture: another base model gives another."""
        digest = hashlib.sha256(self.words().contiguous().numpy().tobytes())
        config = self.config().to_dict()
        shape = {
            key: config.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
        }
        digest.update(json.dumps(shape, sort_keys=True).encode())
        return digest.hexdigest()


def _words_file(folder: Path) -> str:
    """Which of a hub model's files of weights holds the word embeddings, by its index; all where there is none."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return _WEIGHTS
    files: dict[str, str] = json.loads(index.read_text())["weight_map"]
    return next((file for table in _TABLES for key, file in files.items() if key.endswith(table)), _WEIGHTS)


def _quantization(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # one dtype for all shards, so that FSDP can flatten them
    )
