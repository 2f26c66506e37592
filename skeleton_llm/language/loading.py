"""A causal language model of the Hugging Face world by folder or hub id, its words, its width, its identity."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
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

from skeleton_llm.language.tree_attention import sliding_window

hf_logging.disable_progress_bar()
BUILT_IN = Path(__file__).parent / "resources" / "built_in"
Quantization = Literal["none", "nf4", "int8"]
_SMALL = ["*.json", "*.model", "*.txt", "*.jinja"]
_WEIGHTS = "model*.safetensors"  # not "consolidated.safetensors", which holds them once more
_CONVERT = "convert the model with transformers' save_pretrained"
_TABLES = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight")


@dataclass
class LanguageModel:
    """Which language model, and how it is held in memory.

    Args:
        name: ``built-in``, a folder in Hugging Face form, or a hub id.
        revision: commit or tag of a hub id.
        dtype: of the frozen weights; bfloat16 needs an A100 or later, a V100 wants float16.
        attention: ``sdpa`` for GPUs; ``eager`` trains twice as fast on a CPU (measured, short prompts).
        untrained: keep the architecture and draw the weights anew (does the model's knowledge matter?).
    """

    name: str = "built-in"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    untrained: bool = False

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

    @property
    def context(self) -> int | None:
        """Positions that it can read, all of them from the last; None where its configuration sets no limit."""
        config = self.config()
        limits = [getattr(config, "max_position_embeddings", None), sliding_window(config)]
        return min((limit for limit in limits if limit is not None), default=None)

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
                with _opened(file) as tensors:
                    found = [key for key in tensors.keys() if key.endswith(table)]  # noqa: SIM118  (no mapping)
                    if found:
                        return tensors.get_tensor(found[0]).float()
        raise FileNotFoundError(
            f"{folder}: no *.safetensors file holds the word embeddings ({', '.join(_TABLES)}); {_CONVERT}"
        )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tokenizer, with a padding token."""
        tokenizer = AutoTokenizer.from_pretrained(self.path(words_only=True))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load(self, quantization: Quantization = "none") -> PreTrainedModel:
        """The model with frozen weights, in ``dtype``, on the CPU (quantised ones on the current device).

        Args:
            quantization: ``nf4`` (QLoRA) or ``int8`` (LLM.int8) through bitsandbytes; the tuning mode's.

        Raises:
            ValueError: an untrained model is to be quantised.
        """
        dtype: torch.dtype = getattr(torch, self.dtype)
        if self.untrained:
            if quantization != "none":
                raise ValueError(
                    "llm.untrained draws new weights, which the tuning modes qlora and int8 cannot hold;"
                    " set tuning.mode to lora"
                )
            state = torch.get_rng_state()
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(self.config(), dtype=dtype, attn_implementation=self.attention)
            torch.set_rng_state(state)
        elif quantization == "none":
            model = AutoModelForCausalLM.from_pretrained(self.path(), dtype=dtype, attn_implementation=self.attention)
        else:
            place = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
            model = AutoModelForCausalLM.from_pretrained(
                self.path(),
                dtype=dtype,
                quantization_config=_quantization(quantization, dtype),
                device_map={"": place},
                attn_implementation=self.attention,
            )
            layers: list[Any] = [*model.modules()]
            for layer in layers:
                if hasattr(layer, "support_avx512bf16_for_cpu"):
                    # else the first evaluation on such a CPU rounds the weights' scales to bfloat16, for good
                    layer.support_avx512bf16_for_cpu = False
        return model.requires_grad_(requires_grad=False)

    def outline(self) -> PreTrainedModel:
        """The model by its configuration alone: layers with names and shapes, no weights, in a fraction of a second."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config())

    def fingerprint(self) -> str:
        """SHA-256 of the word embeddings and the architecture: what codes are aligned with.

        It needs no other weights, so a model that was tuned elsewhere than in its words has the same.
        """
        digest = hashlib.sha256(self.words().contiguous().numpy().tobytes())
        config = self.config().to_dict()
        shape = {
            key: config.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
        }
        digest.update(json.dumps(shape, sort_keys=True).encode())
        return digest.hexdigest()

    def weights_fingerprint(self) -> str:
        """SHA-256 of the name, the shape and a row of every weight: what an adapter was tuned on.

        Rows are read from the files, however these part the model and in whatever it is loaded. They are the middle
        ones: tuning, or merging an adapter, moves every row of the matrices that it is for.

        Raises:
            FileNotFoundError: no safetensors file holds the weights.
            ValueError: a file is damaged.
        """
        digest = hashlib.sha256()
        for name, shape, row in sorted(self._rows(), key=itemgetter(0)):
            digest.update(f"{name} {shape}\n".encode())
            digest.update(row.float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _rows(self) -> Iterator[tuple[str, list[int], Tensor]]:
        """Of every weight name, shape and middle row."""
        if self.untrained:
            for name, tensor in self.load().state_dict().items():
                yield name, list(tensor.shape), tensor[_middle(tensor.shape)]
            return
        for file in _weight_files(self.path()):
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118  (no mapping)
                    part = tensors.get_slice(name)
                    yield name, part.get_shape(), part[_middle(part.get_shape())]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file; whatever is wrong with it, as one sentence."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged or cut off ({error}); fetch the model again") from error


def _middle(shape: Sequence[int]) -> tuple[slice, ...]:
    """The row in the middle of all dimensions but the last."""
    return tuple(slice(size // 2, size // 2 + 1) for size in shape[:-1])


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load, whatever else lies beside them."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise FileNotFoundError(f"{folder}: has neither {whole.name} nor {index.name}; {_CONVERT}")
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


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
