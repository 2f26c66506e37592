"""A language model that reads action sentences and answers with an action's name (LLM-AR section 3.3).

B clips, L tokens a clip, D width, C classes, P prompt length, A longest answer with its end, V words.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GenerationConfig

from skeleton_llm.language.inputs import Inputs, LateEntry, root_mean_square_norm
from skeleton_llm.language.scoring import Best
from skeleton_llm.language.tree_attention import read_prefix
from skeleton_llm.language.wording import IGNORED, Wording

Sentences = Float[Tensor, "B L D"] | Int[Tensor, "B L"]
Listed = Sequence[Sequence[int]] | None


@runtime_checkable
class SkeletonReader(Protocol):
    """What stands before the language model: skeletons to what it reads, and which of it counts [B, L]."""

    def sentences(self, joints: Tensor, persons: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token indices [B, L]; ``lengths`` are the frames that count, None for all."""
        ...

    def embed(self, joints: Tensor, persons: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Their vectors [B, L, D], of norm about 1."""
        ...

    def vectors(self, tokens: Tensor) -> Tensor:
        """Of token indices alone."""
        ...

    def latents(self, joints: Tensor, persons: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What was not quantised [B, L, D], of norm about 1."""
        ...


class Answers(NamedTuple):
    """``log_likelihoods`` are exact and include the end token; ``normalised`` are divided by the name's length."""

    log_likelihoods: Float[Tensor, "B C"]
    normalised: Float[Tensor, "B C"]

    def among(self, listed: Listed) -> "Answers":
        """The same scores, -inf where a class is not ``listed`` for the clip (or for all clips); None leaves all in."""
        if listed is None:
            return self
        size, device = len(self.log_likelihoods), self.log_likelihoods.device
        barred = torch.ones(self.log_likelihoods.shape, dtype=torch.bool)
        for row, classes in zip(barred, listed if len(listed) == size else [*listed] * size, strict=True):
            row[list(classes)] = False
        return Answers(*(scores.masked_fill(barred.to(device), float("-inf")) for scores in self))


class LLMRecognizer(nn.Module):
    """A (tuned) causal language model with its prompt and the names it may answer.

    What it reads are ``sentences``: vectors of norm about 1 [B, L, D], or token indices [B, L] for the form vocabulary.

    Args:
        llm: causal language model, as ``Tuning.apply`` gives it.
        wording: prompt and names.
        inputs: how sentences enter.
        actions: ids of the action words, for the form vocabulary.
        share_prefix: compute what all prompts of a batch begin with once; not under gradient checkpointing, which keeps
            no cache.
    """

    llm: Any  # a PreTrainedModel, or PEFT's wrapper of one: its methods are no business of nn.Module's types
    answers: Tensor
    word_norm: Tensor
    temperature: Tensor

    def __init__(
        self,
        llm: nn.Module,
        wording: Wording,
        inputs: Inputs | None = None,
        *,
        actions: range = range(0),
        share_prefix: bool = True,
    ) -> None:
        """Build the map."""
        super().__init__()
        self.llm, self.inputs = llm, inputs or Inputs()
        self.actions, self.share_prefix = actions, share_prefix
        words = self._embedding().weight
        self.wording, self.class_names, self.trie = wording, wording.class_names, wording.trie
        self.register_buffer("answers", wording.answers.clone(), persistent=False)
        norm = root_mean_square_norm(words[: actions.start] if actions else words)
        self.register_buffer("word_norm", norm, persistent=False)
        self.register_buffer("temperature", torch.ones(()))  # of the answers' probabilities, fitted on validation
        self.input_map: nn.Linear | None = None
        if self.inputs.map:
            self.input_map = nn.Linear(words.shape[1], words.shape[1])
            nn.init.eye_(self.input_map.weight)
            nn.init.zeros_(self.input_map.bias)
        self._late = None if self.inputs.layer is None else LateEntry(llm, self.inputs.layer)

    def _embedding(self) -> Any:
        return self.llm.get_input_embeddings()

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes here: autocast's within autocast, else that of its words."""
        device = self.word_norm.device.type
        words: torch.dtype = self._embedding().weight.dtype
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else words

    def read(
        self, reader: SkeletonReader, joints: Tensor, persons: Tensor, lengths: Tensor | None = None
    ) -> tuple[Sentences, Bool[Tensor, "B L"]]:
        """Skeletons as the sentences that this model reads."""
        read = {"codes": reader.embed, "vocabulary": reader.sentences, "latents": reader.latents}[self.inputs.form]
        return read(joints, persons, lengths)

    def from_tokens(self, reader: SkeletonReader, tokens: Int[Tensor, "B L"]) -> Sentences:
        """Action sentences that were written before, as this model reads them."""
        return tokens if self.inputs.form == "vocabulary" else reader.vectors(tokens)

    def _tokens(self, sentences: Sentences) -> Float[Tensor, "B L D"]:
        """Sentences as embeddings: vectors take the map and the words' root-mean-square norm."""
        embedding = self._embedding()
        if self.inputs.form == "vocabulary":
            return embedding(sentences + self.actions.start)
        mapped = sentences if self.input_map is None else self.input_map(sentences.to(self.input_map.weight.dtype))
        return (mapped * self.word_norm).to(embedding.weight.dtype)

    def _words(self, ids: Sequence[Sequence[int]], rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids of one piece for all rows or of one each, filled up on the left, as embeddings and mask."""
        longest = max(map(len, ids))
        there = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in ids], dtype=torch.bool)
        filled = torch.tensor([[0] * (longest - len(row)) + list(row) for row in ids], dtype=torch.long)
        embedded = self._embedding()(filled.to(device))
        return embedded.expand(rows, -1, -1), there.to(device).expand(rows, -1)

    def prompt(
        self, sentences: Sentences, mask: Bool[Tensor, "B L"], listed: Listed = None
    ) -> tuple[Float[Tensor, "B P D"], Bool[Tensor, "B P"]]:
        """The prompt as embeddings, and which of them count.

        Args:
            sentences: what ``read`` gives.
            mask: which tokens count.
            listed: the classes that each prompt's list names, or one list for all; None for every class.
        """
        around = [self.wording.around(row) for row in listed] if listed else [self.wording.around()]
        rows, device = len(mask), mask.device
        before, after = (self._words(piece, rows, device) for piece in zip(*around, strict=True))
        tokens = self._tokens(sentences)
        if self._late is not None:
            tokens = torch.zeros_like(tokens)
        times = self.inputs.repeat
        whole = torch.cat([before[0], *[tokens] * times, after[0]], dim=1)
        return whole, torch.cat([before[1], *[mask] * times, after[1]], dim=1)

    @contextmanager
    def _entering(
        self, sentences: Sentences, there: Tensor, listed: Listed, skip: int = 0, order: Tensor | None = None
    ) -> Iterator[None]:
        """Within it, latents enter at their layer (``inputs.layer``), in passes that read prompts but for ``skip``.

        ``order`` is that of ``_together``.
        """
        if self._late is None:
            yield
            return
        tokens, (begin, _) = self._tokens(sentences), self._before(listed)
        added = F.pad(tokens, (0, 0, begin, there.shape[1] - begin - tokens.shape[1]))
        added = added[:, skip:]
        if order is not None:  # places of answers, behind the prompt's, take a place of their own that adds nothing
            added = F.pad(added, (0, 0, 0, 1))
            added = added.gather(1, order.clamp_max(added.shape[1] - 1)[..., None].expand(-1, -1, added.shape[-1]))
        with self._late.reading(added, skip):
            yield

    def _before(self, listed: Listed) -> tuple[int, bool]:
        """How much stands before the sentence, and whether it is the same for all clips."""
        rows: Sequence[Sequence[int] | None] = listed or [None]
        begins = {tuple(self.wording.around(row)[0]) for row in rows}
        return max(map(len, begins)), len(begins) == 1

    def _prefix(self, prompt: Tensor, listed: Listed) -> tuple[Cache | None, int]:
        """The cache of what every prompt begins with, a single row, and how long that is."""
        checkpointing = getattr(self.llm, "is_activation_checkpointing", False) and self.training
        size, same = self._before(listed)
        if not self.share_prefix or checkpointing or not same or size == 0:
            return None, 0
        return read_prefix(self.llm, prompt[0, :size]), size

    def loss(
        self, sentences: Sentences, mask: Bool[Tensor, "B L"], labels: Int[Tensor, " B"], listed: Listed = None
    ) -> Float[Tensor, ""]:
        """Cross entropy of the answer's tokens and its end, in float32 (LLM-AR Eq. 13); logits only where it counts."""
        answer = self.answers[labels]
        return self.answer_loss(sentences, mask, answer[:, : int((answer != IGNORED).sum(1).max())], listed)

    def answer_loss(
        self, sentences: Sentences, mask: Bool[Tensor, "B L"], answer: Int[Tensor, "B A"], listed: Listed = None
    ) -> Float[Tensor, ""]:
        """The same for the ids of the answers, ignored behind their ends."""
        prompt, there = self.prompt(sentences, mask, listed)
        real = answer != IGNORED
        given = self._embedding()(answer.where(real, self.wording.end)[:, :-1])
        cache, skip = self._prefix(prompt, listed)
        if cache is not None:
            cache.batch_repeat_interleave(len(prompt))
        order, states, targets = self._together(there[:, skip:], answer)
        whole = torch.cat([prompt[:, skip:], given.to(prompt.dtype)], dim=1)
        attended = torch.cat([there[:, skip:], real[:, :-1]], dim=1).gather(1, order)
        with self._entering(sentences, there, listed, skip, order), self._only(states):
            out = self.llm(
                inputs_embeds=whole.gather(1, order[..., None].expand(-1, -1, whole.shape[-1])),
                attention_mask=torch.cat([there[:, :skip], attended], dim=1).long(),
                position_ids=(attended.cumsum(1) - 1 + skip).clamp_min(0),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return F.cross_entropy(out.logits[0].float(), targets)

    @staticmethod
    def _together(
        there: Bool[Tensor, "B P"], answer: Int[Tensor, "B A"]
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, " K"], Int[Tensor, " K"]]:
        """How prompts and answers stand without gaps, padded at their ends alone, and what is asked of the model.

        Returns:
            order: which of the P + A - 1 places each of the T new ones is.
            states: which of the B T states foretell answers.
            targets: these answers' ids.
        """
        real = answer != IGNORED
        attended = torch.cat([there, real[:, :-1]], dim=1)
        length = int(attended.sum(1).max())
        order = attended.int().argsort(dim=1, descending=True, stable=True)[:, :length]
        row, step = real.nonzero(as_tuple=True)
        return order, row * length + there.sum(1)[row] - 1 + step, answer[row, step]

    @contextmanager
    def _only(self, states: Int[Tensor, " K"]) -> Iterator[None]:
        """Within it, the output matrix multiplies these of all B T states by one product; logits are [1, K, V]."""
        head = self.llm.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[states][None],))
        try:
            yield
        finally:
            hook.remove()

    @torch.no_grad()
    def score(
        self,
        sentences: Sentences,
        mask: Bool[Tensor, "B L"],
        listed: Listed = None,
        candidates: Sequence[int] | None = None,
    ) -> Answers:
        """Exact log-likelihood of every class name; -inf where it is none of the ``candidates``."""
        if len(mask) == 0:
            empty = self.word_norm.new_zeros(0, len(self.class_names))
            return Answers(empty, empty)
        prompt, there = self.prompt(sentences, mask, listed)
        prefix, skip = self._prefix(prompt, listed)
        with self._entering(sentences, there, listed, skip):
            likelihoods = self.trie.score(self.llm, prompt, there, candidates=candidates, prefix=prefix)
        return Answers(likelihoods, likelihoods / self.trie.lengths.to(likelihoods.device))

    @torch.no_grad()
    def best(
        self,
        sentences: Sentences,
        mask: Bool[Tensor, "B L"],
        count: int = 1,
        listed: Listed = None,
        candidates: Sequence[int] | None = None,
    ) -> Best:
        """The ``count`` likeliest classes, as ``score`` ranks them, for a fraction of its work."""
        if len(mask) == 0:
            empty = self.word_norm.new_zeros(0, count)
            return Best(empty.long(), empty)
        prompt, there = self.prompt(sentences, mask, listed)
        prefix, skip = self._prefix(prompt, listed)
        with self._entering(sentences, there, listed, skip):
            return self.trie.best(self.llm, prompt, there, count, candidates=candidates, prefix=prefix)

    @torch.no_grad()
    def generate(self, sentences: Sentences, mask: Bool[Tensor, "B L"], listed: Listed = None) -> list[str]:
        """Free greedy answers, as text; nothing keeps them to the class names."""
        if len(mask) == 0:
            return []
        prompt, there = self.prompt(sentences, mask, listed)
        with self._entering(sentences, there, listed), _plain_generation(self.llm):
            out = self.llm.generate(
                inputs_embeds=prompt,
                attention_mask=there.long(),
                do_sample=False,
                max_new_tokens=self.wording.longest_answer,
                eos_token_id=self.wording.end,
                pad_token_id=self.wording.text.pad_token_id,
            )
        return [said.strip() for said in self.wording.text.batch_decode(out, skip_special_tokens=True)]


@contextmanager
def _plain_generation(llm: Any) -> Iterator[None]:
    """Within it, the penalties, samples and forced words of the model's own ``generation_config`` do not count."""
    owner = llm.get_base_model() if isinstance(llm, PeftModel) else llm
    own, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = own
