"""A language model that reads action sentences as embeddings and answers with an action's name (LLM-AR section 3.3).

B clips, L tokens a clip, D width, C classes, P prompt length, A longest answer with its end, V words.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from skeleton_llm.language.prompts import Prompt
from skeleton_llm.language.scoring import NameTrie, pad


class SkeletonReader(Protocol):
    """What stands before the language model: skeletons to embeddings [B, L, D] and mask [B, L]."""

    def embed(self, joints: Tensor, persons: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of norm about 1, and which of them count; ``lengths`` are the frames that do, None for all."""
        ...


class Answers(NamedTuple):
    """``log_likelihoods`` are exact and include the end token; ``normalised`` are divided by the name's length."""

    log_likelihoods: Float[Tensor, "B C"]
    normalised: Float[Tensor, "B C"]

    def among(self, candidates: Sequence[int] | None) -> "Answers":
        """The same scores with every class but ``candidates`` out of the question; None leaves all in."""
        if candidates is None:
            return self
        barred = torch.ones_like(self.log_likelihoods, dtype=torch.bool)
        barred[:, list(candidates)] = False
        return Answers(*(scores.masked_fill(barred, float("-inf")) for scores in self))


class LLMRecognizer(nn.Module):
    """A (tuned) causal language model with its prompt and the names it may answer.

    Args:
        llm: causal language model, as ``Tuning.apply`` gives it.
        text: its text tokenizer.
        class_names: the actions.
        prompt: the instruction.
        input_map: put a learned linear map, at first the identity, between code vectors and the model. The paper has
            none; a small language model needs it (measured: 76 against 46 on NW-UCLA).

    Raises:
        ValueError: the text tokenizer does not give back a class name or the prompt.
    """

    ids_before: Tensor
    ids_after: Tensor
    answers: Tensor
    word_norm: Tensor
    temperature: Tensor

    def __init__(
        self,
        llm: nn.Module,
        text: PreTrainedTokenizerBase,
        class_names: Sequence[str],
        prompt: Prompt,
        *,
        input_map: bool,
    ) -> None:
        """Tokenise the prompt and every name once, and check that they survive the round trip."""
        super().__init__()
        self.llm, self.text, self.class_names = llm, text, list(class_names)
        words = self._embedding().weight
        before, after = prompt.parts(class_names)
        begin = [] if text.bos_token_id is None else [text.bos_token_id]
        first, last = _ids(text, before), _ids(text, after)
        for piece, ids in ((before, first), (after, last)):
            if _flat(str(text.decode(ids))) != _flat(piece):
                raise ValueError(
                    f"the text tokenizer does not give back the prompt {piece!r} but {text.decode(ids)!r};"
                    " use another llm"
                )
        names = [_answer_ids(text, after, name) for name in class_names]
        for name, ids in zip(class_names, names, strict=True):
            if str(text.decode(ids)).strip() != name:
                raise ValueError(
                    f"the text tokenizer does not give back the class name {name!r} but {text.decode(ids)!r};"
                    " rename the class or use another llm"
                )
        self.end = int(text.eos_token_id)
        self.trie = NameTrie(names, self.end)
        self.register_buffer("ids_before", torch.tensor(begin + first), persistent=False)
        self.register_buffer("ids_after", torch.tensor(last), persistent=False)
        self.register_buffer("answers", pad([[*ids, self.end] for ids in names], -100), persistent=False)
        norm = words.detach().float().square().sum(-1).mean().sqrt()
        self.register_buffer("word_norm", norm, persistent=False)
        self.register_buffer("temperature", torch.ones(()))  # of the answers' probabilities, fitted on validation
        self.input_map: nn.Linear | None = None
        if input_map:
            self.input_map = nn.Linear(words.shape[1], words.shape[1])
            nn.init.eye_(self.input_map.weight)
            nn.init.zeros_(self.input_map.bias)

    def _embedding(self) -> nn.Embedding:
        return self.llm.get_input_embeddings()  # type: ignore[operator]

    def prompt(
        self, codes: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]:
        """The prompt as embeddings: codes take the words' root-mean-square norm, then the map."""
        embedding = self._embedding()
        tokens = codes if self.input_map is None else self.input_map(codes.to(self.input_map.weight.dtype))
        tokens = (tokens * self.word_norm).to(embedding.weight.dtype)
        around = [embedding(ids).expand(len(codes), -1, -1) for ids in (self.ids_before, self.ids_after)]
        there = [torch.ones(part.shape[:2], dtype=torch.bool, device=codes.device) for part in around]
        return torch.cat([around[0], tokens, around[1]], dim=1), torch.cat([there[0], mask, there[1]], dim=1)

    def loss(
        self, codes: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"], labels: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Cross entropy of the answer's tokens and its end, in float32 (LLM-AR Eq. 13); logits only where it counts."""
        prompt, there = self.prompt(codes, mask)
        answer = self.answers[labels]  # [B, A], -100 behind the end
        real = answer != -100
        given = self._embedding()(answer.where(real, self.end)[:, :-1])
        attended = torch.cat([there, real[:, :-1]], dim=1)
        out = self.llm(
            inputs_embeds=torch.cat([prompt, given.to(prompt.dtype)], dim=1),
            attention_mask=attended.long(),
            position_ids=(attended.cumsum(1) - 1).clamp_min(0),
            logits_to_keep=answer.shape[1],
            use_cache=False,
        )
        return F.cross_entropy(out.logits.float().flatten(0, 1), answer.flatten(), ignore_index=-100)

    @torch.no_grad()
    def score(self, codes: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Answers:
        """Exact log-likelihood of every class name."""
        if len(codes) == 0:
            return Answers(codes.new_zeros(0, len(self.class_names)), codes.new_zeros(0, len(self.class_names)))
        likelihoods = self.trie.score(self.llm, *self.prompt(codes, mask))
        return Answers(likelihoods, likelihoods / self.trie.lengths.to(likelihoods.device))

    @torch.no_grad()
    def generate(self, codes: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> list[str]:
        """Free greedy answers, as text; nothing keeps them to the class names."""
        if len(codes) == 0:
            return []
        prompt, there = self.prompt(codes, mask)
        out = self.llm.generate(  # type: ignore[operator]
            inputs_embeds=prompt,
            attention_mask=there.long(),
            do_sample=False,
            max_new_tokens=self.answers.shape[1] + 4,
            eos_token_id=self.end,
            pad_token_id=self.text.pad_token_id,
        )
        return [text.strip() for text in self.text.batch_decode(out, skip_special_tokens=True)]


def _ids(text: PreTrainedTokenizerBase, piece: str) -> list[int]:
    return list(text(piece, add_special_tokens=False)["input_ids"])


def _answer_ids(text: PreTrainedTokenizerBase, after: str, name: str) -> list[int]:
    """The name's tokens as they follow the prompt, after a space."""
    tail, whole = _ids(text, after), _ids(text, f"{after} {name}")
    return whole[len(tail) :] if whole[: len(tail)] == tail else _ids(text, f" {name}")


def _flat(piece: str) -> str:
    return " ".join(piece.split())
