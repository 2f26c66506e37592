"""The words around an action sentence as token ids, proved before a model is loaded."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from skeleton_llm.language.prompts import Prompt
from skeleton_llm.language.scoring import NameTrie, pad

IGNORED = -100  # a label that no loss counts, as in Hugging Face
_SPARE = 4  # tokens that a free answer may have beyond the longest name


class Wording:
    """Prompt and class names as the text tokenizer of a language model writes them.

    Args:
        text: the text tokenizer.
        class_names: the actions.
        prompt: the instruction.

    Raises:
        ValueError: nothing stands behind the action sentence; there is no class name, or two have the same tokens; the
            text tokenizer does not give back a name or the prompt, or has no end token.
    """

    def __init__(self, text: PreTrainedTokenizerBase, class_names: Sequence[str], prompt: Prompt) -> None:
        """Tokenise the prompt and every name once, prove that they survive the round trip, build the trie."""
        self.text, self.class_names, self.prompt = text, list(class_names), prompt
        if not self.class_names:
            raise ValueError("no class name to answer with; expected at least one")
        if text.eos_token_id is None:
            raise ValueError(f"{text.name_or_path}: its text tokenizer has no end token; set eos_token in its folder")
        self.end = int(text.eos_token_id)
        self._around = lru_cache(maxsize=4096)(self._tokenise)
        before, after = prompt.parts(text, self.class_names)
        if not _ids(text, after):  # sentences are padded behind their end, where the answer would begin
            raise ValueError(
                f"prompt.text must go on behind [tokens], got {prompt.text!r}; end it with a full stop, for example, or"
                " set prompt.wrapper to alpaca or chat"
            )
        for piece in (before, after):
            if _flat(str(text.decode(_ids(text, piece)))) != _flat(piece):
                raise ValueError(
                    f"the text tokenizer does not give back the prompt {piece!r} but"
                    f" {text.decode(_ids(text, piece))!r}; use another llm"
                )
        self.names = [_answer_ids(text, after, name) for name in self.class_names]
        self.answers = pad([[*ids, self.end] for ids in self.names], IGNORED)
        self.lengths = (self.answers != IGNORED).sum(1).numpy()
        for name, answer in zip(self.class_names, self.answers, strict=True):
            counted = answer[answer != IGNORED].tolist()
            if str(text.decode(counted[:-1])).strip() != name or counted[-1] != self.end:
                raise ValueError(
                    f"the text tokenizer does not give back the class name {name!r} but {text.decode(counted[:-1])!r};"
                    " rename the class or use another llm"
                )
        self._refuse_twins()
        self.trie = NameTrie(self.names, self.end)

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest free answer that is asked for."""
        return self.answers.shape[1] + _SPARE

    def _refuse_twins(self) -> None:
        places: dict[tuple[int, ...], int] = {}
        for place, ids in enumerate(self.names):
            other = places.setdefault(tuple(ids), place)
            if other != place:
                raise ValueError(
                    f"the class names {self.class_names[other]!r} (class {other}) and {self.class_names[place]!r}"
                    f" (class {place}) have the same tokens, so no answer can tell them apart; rename one"
                )

    def around(self, listed: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Token ids before and after the action sentence, with the classes ``listed`` in the list; None for all."""
        return self._around(None if listed is None or not self.prompt.lists else tuple(listed))

    def _tokenise(self, listed: tuple[int, ...] | None) -> tuple[list[int], list[int]]:
        names = self.class_names if listed is None else [self.class_names[label] for label in listed]
        before, after = self.prompt.parts(self.text, names)
        begin = []
        if self.prompt.wrapper != "chat":  # a chat template brings its own
            automatic = self.text("")["input_ids"]
            begin = [token for token in automatic if token != self.text.eos_token_id]
        return [*begin, *_ids(self.text, before)], _ids(self.text, after)

    def listings(
        self, labels: Int[Tensor, " B"], among: Sequence[int] | None = None, index: Int[Tensor, " B"] | None = None
    ) -> list[tuple[int, ...]] | None:
        """For each clip the classes its prompt lists: ``choices`` of them, the right one at a random place.

        Args:
            labels: the right ones.
            among: the only classes that lists draw from; None for all.
            index: the clips' rows, each of which has the same list in every run; None draws anew, for training.

        Returns:
            a list for each clip; without ``choices`` one for all, None for all classes.
        """
        choices = self.prompt.choices
        if choices is None:
            return None if among is None else [tuple(among)]
        pool = torch.arange(len(self.class_names)) if among is None else torch.tensor(list(among))
        found = []
        for label, dice in zip(labels.tolist(), _dice(index, len(labels)), strict=True):
            others = pool[pool != label]
            drawn = others[torch.randperm(len(others), generator=dice)[: choices - 1]]
            found.append(_shuffled(torch.cat([torch.tensor([label]), drawn]), dice))
        return found

    def shuffled(self, classes: Sequence[int], index: Int[Tensor, " B"]) -> list[tuple[int, ...]]:
        """``classes`` in an order for each clip that is the same in every run, whatever the clip shows."""
        return [_shuffled(torch.tensor(list(classes)), dice) for dice in _dice(index, len(index))]

    def longest_list(self, among: Sequence[int]) -> tuple[int, ...]:
        """The longest of the lists that ``listings`` draws from ``among``, by the tokens of their names."""
        longest = sorted(among, key=lambda label: len(_ids(self.text, f", {self.class_names[label]}")), reverse=True)
        return tuple(longest[: self.prompt.choices])

    def check_room(self, sentence: int, context: int | None, listed: Sequence[int] | None = None) -> None:
        """Refuse prompts longer than the language model can read.

        Args:
            sentence: tokens of the longest action sentence, of all its copies (``Inputs.repeat``).
            context: positions of the language model; None where it has no limit.
            listed: the classes that the prompt lists; None for all.

        Raises:
            ValueError: they do not fit.
        """
        before, after = self.around(listed)
        needed = len(before) + sentence + len(after) + self.longest_answer
        if context is not None and needed > context:
            fewer = " or list fewer names in it" if self.prompt.lists else ""
            raise ValueError(
                f"the prompt takes {len(before) + len(after)} tokens, an action sentence up to {sentence}, an answer up"
                f" to {self.longest_answer}: {needed}, more than the {context} that {self.text.name_or_path} reads;"
                f" shorten prompt.text{fewer} or the sentences (preprocess.frames, inputs.repeat), or take another llm"
            )

    def example(self, sentence: Sequence[int], label: int, listed: Sequence[int] | None = None) -> str:
        """One clip as the model sees it, from the ids it is given; what the loss counts stands in double brackets."""
        before, after = self.around(listed)
        answer = self.answers[label]
        counted = self.text.decode(answer[answer != IGNORED].tolist())
        tokens = " ".join(map(str, sentence))
        return f"{self.text.decode(before)}<{tokens}>{self.text.decode(after)}[[{counted}]]"


def _dice(index: Tensor | None, size: int) -> list[torch.Generator | None]:
    """A generator for each clip; None, torch's own one, without ``index``."""
    return [None] * size if index is None else [torch.Generator().manual_seed(row) for row in index.tolist()]


def _shuffled(classes: Tensor, dice: torch.Generator | None) -> tuple[int, ...]:
    return tuple(classes[torch.randperm(len(classes), generator=dice)].tolist())


def _ids(text: PreTrainedTokenizerBase, piece: str) -> list[int]:
    return list(text(piece, add_special_tokens=False)["input_ids"])


def _answer_ids(text: PreTrainedTokenizerBase, after: str, name: str) -> list[int]:
    """The name's tokens as they follow the prompt, after a space where the prompt does not end in one."""
    said = name if after[-1:].isspace() else f" {name}"
    tail, whole = _ids(text, after), _ids(text, after + said)
    return whole[len(tail) :] if whole[: len(tail)] == tail else _ids(text, said)


def _flat(piece: str) -> str:
    return " ".join(piece.split())
