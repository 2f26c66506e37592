"""The exact log-likelihood of class names after a prompt: of all by one pass over their trie, of the best by search.

B prompts of P embeddings, C names, K places of the trie (its root, its words, one end a name), V words.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from skeleton_llm.language.tree_attention import read_nodes, read_prompt, refuse_window

_MOST_WORDS = 2**11  # of one pass, over its prompts: more leave a processor's cache, fewer leave a GPU idle
_MOST_LOGITS = 2**27  # of one pass: 512 MiB in float32


class Best(NamedTuple):
    """The best classes of each prompt, best first, with their exact log-likelihoods."""

    classes: Int[Tensor, "B count"]
    log_likelihoods: Float[Tensor, "B count"]


class NameTrie:
    """Names as token ids, each with its end token, sharing their beginnings.

    The end token is part of a name, so a name that begins another ("put on" and "put on a hat") is told apart from it.
    Both questions take ``candidates``, the only classes that are asked about, None for all, and ``prefix``, the cache
    of the first places of every prompt (``read_prefix``).

    Args:
        names: token ids of each name, without the end token.
        end: id of the end token.

    Raises:
        ValueError: a name is empty or two names have the same tokens.
    """

    def __init__(self, names: Sequence[Sequence[int]], end: int) -> None:
        """Number the places: 0 is the root, which is never read, then the words, then the ends.

        Words stand branch after branch, parents first; a branch is what begins with the same word.
        """
        if any(len(name) == 0 for name in names) or len({tuple(name) for name in names}) < len(names):
            raise ValueError("class names must differ in their tokens and hold at least one; rename the classes")
        self.names, self.end = [list(name) for name in names], end
        numbers: dict[tuple[int, int], int] = {}
        tokens, parents, last = [end], [0], [0] * len(names)
        for index in sorted(range(len(names)), key=self.names.__getitem__):
            place = 0
            for token in self.names[index]:
                if (place, token) not in numbers:
                    numbers[place, token] = len(tokens)
                    tokens.append(token)
                    parents.append(place)
                place = numbers[place, token]
            last[index] = place
        self.num_inner = len(tokens)  # root and words; behind them stand the ends
        self.branches = [place for place in range(1, len(tokens)) if parents[place] == 0]  # their first words
        self.tokens = torch.tensor([*tokens, *[end] * len(names)])
        self.parents = torch.tensor([*parents, *last])
        self.paths = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)  # row: its way from the root
        for place in range(1, len(self.tokens)):
            self.paths[place] = self.paths[self.parents[place]]
            self.paths[place, place] = True
        self.depths = self.paths.sum(1)
        self.lengths = self.depths[self.num_inner :].float()  # tokens of each name, the end included

    def among(self, candidates: Sequence[int]) -> "NameTrie":
        """The trie of these classes alone, numbered in the order given."""
        return NameTrie([self.names[index] for index in candidates], self.end)

    @torch.no_grad()
    def score(
        self,
        llm: nn.Module,
        prompt: Float[Tensor, "B P D"],
        mask: Bool[Tensor, "B P"],
        *,
        candidates: Sequence[int] | None = None,
        prefix: Cache | None = None,
    ) -> Float[Tensor, "B C"]:
        """Log p(name, end | prompt), float32, of every name, -inf where it is no candidate.

        ``mask`` says which places count; padding may stand anywhere.

        Raises:
            ValueError: prompt and name are longer than the model's sliding window.
        """
        if candidates is not None:
            scores = self.among(candidates).score(llm, prompt, mask, prefix=prefix)
            whole = scores.new_full((len(prompt), len(self.names)), float("-inf"))
            return whole.index_copy(1, torch.tensor(list(candidates), device=scores.device), scores)
        refuse_window(llm, self._longest(prompt))
        vocabulary: int = llm.config.get_text_config().vocab_size  # type: ignore[operator, union-attr]
        most = min(_MOST_WORDS, _MOST_LOGITS // vocabulary)
        rows = max(1, most // max(branch.stop - branch.start for branch in self._passes(1)))
        parts = zip(prompt.split(rows), mask.split(rows), strict=True)
        return torch.cat([self._score(llm, *part, prefix, most // len(part[0])) for part in parts])

    def _score(self, llm: nn.Module, prompt: Tensor, mask: Tensor, prefix: Cache | None, most: int) -> Tensor:
        """Branches do not look at each other: each pass reads some, ``most`` words if they fit, behind the prompt."""
        tokens, _, depths, paths = self._on(prompt.device)
        logits, cache = read_prompt(llm, prompt, mask, prefix)
        steps = logits.new_zeros(len(prompt), len(tokens), dtype=torch.float32)  # log p of each place after its parent
        self._foretell(steps, logits, 0)
        for words in self._passes(most):
            logits = read_nodes(
                llm,
                cache,
                mask,
                tokens[words].expand(len(prompt), -1),
                depths[words].expand(len(prompt), -1),
                paths[words, words].expand(len(prompt), -1, -1),
            )
            cache.crop(words.start - words.stop)
            self._foretell(steps, logits, words.start)
        return steps.double().matmul(paths[self.num_inner :].T.double()).float()

    def _passes(self, most: int) -> list[slice]:
        """All words in slices of whole branches, each as many as ``most`` words hold, at least one."""
        passes: list[slice] = []
        for begin, end in pairwise([*self.branches, self.num_inner]):
            fits = passes and end - passes[-1].start <= most
            passes.append(slice(passes.pop().start if fits else begin, end))
        return passes

    def _foretell(self, steps: Float[Tensor, "B K"], logits: Float[Tensor, "B N V"], begin: int) -> None:
        """Fill in the places whose parents are the N from ``begin`` on, of which ``logits`` are."""
        tokens, parents, _, _ = self._on(logits.device)
        parent = parents - begin
        after = ((parent >= 0) & (parent < logits.shape[1])).nonzero()[:, 0]
        parent = parent[after]
        steps[:, after] = logits[:, parent, tokens[after]].float() - logits.float().logsumexp(-1)[:, parent]

    @torch.no_grad()
    def best(
        self,
        llm: nn.Module,
        prompt: Float[Tensor, "B P D"],
        mask: Bool[Tensor, "B P"],
        count: int = 1,
        *,
        candidates: Sequence[int] | None = None,
        prefix: Cache | None = None,
    ) -> Best:
        """The ``count`` likeliest names, as ``score`` would rank them, reading only the words that are in question.

        How many passes it takes depends on the prompts; ranks that share a sharded model must be kept in step.

        Raises:
            ValueError: more names are asked for than there are, or prompt and name exceed the model's sliding window.
        """
        if candidates is not None:
            found = self.among(candidates).best(llm, prompt, mask, count, prefix=prefix)
            return Best(torch.tensor(list(candidates), device=mask.device)[found.classes], found.log_likelihoods)
        if not 1 <= count <= len(self.names):
            raise ValueError(f"count is {count}, expected 1 to the number of class names, {len(self.names)}")
        refuse_window(llm, self._longest(prompt))
        return self._search(llm, prompt, mask, count, prefix)

    def _search(self, llm: nn.Module, prompt: Tensor, mask: Tensor, count: int, prefix: Cache | None) -> Best:
        """Best-first: log p <= 0, so what leads to an open word bounds all names behind it (A*).

        Each round reads the best open words of every prompt that is not done: ``count``, or more once others are done
        and leave their places in the pass. A prompt is done when no open word's bound is above its ``count``-th
        complete name. Dummies, where fewer words are open, are roots.
        """
        tokens, parents, depths, paths = self._on(prompt.device)
        size = len(prompt)
        classes = torch.empty(size, count, dtype=torch.long, device=mask.device)
        likelihoods = torch.empty(size, count, device=mask.device)
        rows = torch.arange(size, device=mask.device)
        nodes, reached = rows.new_zeros(size, 1), likelihoods.new_zeros(size, 1, dtype=torch.float64)
        columns = rows.new_zeros(size, 0)  # the words in the cache behind the prompt
        bounds = reached.new_full((size, len(tokens)), float("-inf"))  # of open words and complete names
        logits, cache = read_prompt(llm, prompt, mask, prefix)
        while True:
            steps = (logits[:, :, tokens].float() - logits.float().logsumexp(-1, keepdim=True)).double()
            news = (reached[..., None] + steps.clamp_max(0)).where(parents == nodes[..., None], float("-inf")).amax(1)
            bounds = bounds.scatter(1, nodes, float("-inf")).maximum(news)
            bounds[:, 0] = float("-inf")
            opened, complete = bounds[:, : self.num_inner], bounds[:, self.num_inner :].topk(count)
            done = ~(complete.values[:, -1] < opened.amax(1))
            classes[rows[done]] = complete.indices[done]
            likelihoods[rows[done]] = complete.values[done].float()
            if done.all():
                return Best(classes, likelihoods)
            if done.any():
                rows, mask, columns, bounds, opened = (part[~done] for part in (rows, mask, columns, bounds, opened))
                cache.batch_select_indices(~done)
            reached, nodes = opened.topk(min(max(count, size // len(rows)), self.num_inner))
            nodes = nodes.where(reached > float("-inf"), 0)
            columns = torch.cat([columns, nodes], dim=1)
            seen = paths[nodes[:, :, None], columns[:, None]]
            logits = read_nodes(llm, cache, mask, tokens[nodes], depths[nodes], seen)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.tokens.to(device), self.parents.to(device), self.depths.to(device), self.paths.to(device)

    def _longest(self, prompt: Tensor) -> int:
        return prompt.shape[1] + int(self.lengths.max()) - 1  # the end is never read


def ties(scores: Float[Tensor, "B C"], dtype: torch.dtype) -> int:
    """How many prompts have two best names that a model in ``dtype`` cannot tell apart, by its relative resolution."""
    if scores.shape[1] < 2:
        return 0
    best, second = scores.topk(2).values.unbind(-1)
    return int((best - second <= torch.finfo(dtype).eps * best.abs()).sum())


def pad(sequences: Sequence[Sequence[int]], value: int) -> Int[Tensor, "C A"]:
    """Ragged ids as one tensor, filled up on the right."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences])
