"""How action sentences enter a language model.

B clips, L tokens a clip, P prompt length, D width, N codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Form = Literal["codes", "vocabulary", "latents"]


@dataclass
class Inputs:
    """The form of an action sentence for the language model.

    Args:
        form: ``codes``, the codebook's vectors in place of word embeddings (LLM-AR); ``vocabulary``, new rows of the
            embedding matrix that start as these vectors and learn; ``latents``, what the encoder gave before it was
            quantised (the paper's "w/o discretisation").
        map: a learned linear map, at first the identity, before codes and latents. The paper has none; a small language
            model needs it (measured: 76 against 46 on NW-UCLA).
        layer: of latents: add them to what enters this decoder layer instead of giving them as embeddings.
        repeat: how often the sentence stands in the prompt, one copy behind the other: a causal model reads the first
            without knowing how it goes on, the second with all of it in view (Springer et al. 2024). The paper has 1.
    """

    form: Form = "codes"
    map: bool = False
    layer: int | None = None
    repeat: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be combined."""
        if self.repeat < 1:
            raise ValueError(
                f"inputs.repeat is how often the sentence stands in the prompt, at least 1, got {self.repeat}"
            )
        if self.repeat > 1 and self.layer is not None:
            raise ValueError(
                "inputs.repeat is of sentences in the prompt, and inputs.layer puts none there; set inputs.repeat to 1"
            )
        if self.layer is not None and self.form != "latents":
            raise ValueError(f"inputs.layer is for the form latents, got the form {self.form}; set it back to null")
        if self.map and self.form == "vocabulary":
            raise ValueError("inputs.map has no place before rows that learn themselves; set inputs.map to false")


def add_action_words(
    llm: PreTrainedModel,
    text: PreTrainedTokenizerBase,
    num_codes: int,
    vectors: Float[Tensor, "N D"] | None = None,
) -> range:
    """Give model and text tokenizer the words <action_0> to <action_N-1>; their ids.

    Their embeddings start as ``vectors``, times the words' root-mean-square norm (0 without vectors); where the output
    matrix stands alone, their rows start there at 0.
    """
    names = [f"<action_{code}>" for code in range(num_codes)]
    text.add_tokens(names, special_tokens=True)
    first = int(text.convert_tokens_to_ids(names[0]))  # type: ignore[arg-type]
    words: nn.Embedding = llm.get_input_embeddings()  # type: ignore[assignment]
    norm = root_mean_square_norm(words.weight[:first])
    if first + num_codes > words.num_embeddings:
        words = llm.resize_token_embeddings(first + num_codes, mean_resizing=False)
    actions = range(first, first + num_codes)
    with torch.no_grad():
        if (output := llm.get_output_embeddings()) is not None:
            output.weight[actions] = 0
        words.weight[actions] = 0 if vectors is None else (vectors * norm).to(words.weight)
    return actions


def root_mean_square_norm(words: Float[Tensor, "V D"]) -> Float[Tensor, ""]:
    """Of the rows, in float32."""
    return words.detach().float().square().sum(-1).mean().sqrt()


def decoder_layers(llm: nn.Module) -> nn.ModuleList:
    """The decoder's layers: of all lists of modules of one class, the longest."""
    lists = [m for m in llm.modules() if isinstance(m, nn.ModuleList) and len({type(layer) for layer in m}) == 1]
    return max(lists, key=len)


def decoder_layer(llm: nn.Module, layer: int) -> nn.Module:
    """The one of ``inputs.layer``.

    Raises:
        ValueError: the language model has no such layer.
    """
    layers = decoder_layers(llm)
    if not 0 <= layer < len(layers):
        raise ValueError(f"inputs.layer must lie in 0 to {len(layers) - 1} for this language model, got {layer}")
    return layers[layer]


class LateEntry:
    """Adds latents to what enters one decoder layer, in the pass that reads the prompt (not where answers follow).

    Raises:
        ValueError: the language model has no such layer.
    """

    def __init__(self, llm: nn.Module, layer: int) -> None:
        """Hook into the layer."""
        entered = decoder_layer(llm, layer)
        self.layer, self.row, self.before = layer, 0, 0
        self.added: Tensor | None = None
        entered.register_forward_pre_hook(self._add, with_kwargs=True)

    @contextmanager
    def reading(self, added: Float[Tensor, "B P D"], before: int = 0) -> Iterator[None]:
        """Within it, passes that read prompts get ``added``, row by row; ``before`` positions are in the cache."""
        self.added, self.row, self.before = added, 0, before
        try:
            yield
        finally:
            self.added = None

    def _add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("past_key_values")
        if self.added is None or (cache is not None and cache.get_seq_length(self.layer) != self.before):
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        part = self.added[self.row : self.row + len(hidden)]
        self.row += len(hidden)
        hidden = hidden + F.pad(part, (0, 0, 0, hidden.shape[1] - part.shape[1])).to(hidden.dtype)
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})
