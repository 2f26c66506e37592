"""One folder and one raw skeleton file in, one answer out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skeleton_llm.language import (
    Answers,
    LanguageModel,
    LLMRecognizer,
    Prompt,
    Sentences,
    Tuning,
    load_network,
    save_network,
)
from skeleton_llm.language.card import write_card
from skeleton_llm.language.saving import read_config
from skeleton_llm.networks import ActionTokenizer
from skeleton_llm.skeletons import Clip
from skeleton_llm.skeletons.readers import read_clip

_TOP = 5
Source = Path | str | Clip | np.ndarray | Tensor


@dataclass(frozen=True)
class Answer:
    """What was recognised.

    Attributes:
        name: the most likely action.
        top: the five most likely actions with their probabilities among the known ones, best first.
        sentence: the action sentence, token indices.
        said: what the language model answers when it may say anything; None where it was not asked.
    """

    name: str
    top: list[tuple[str, float]]
    sentence: list[int]
    said: str | None = None


def read_views(
    tokenizer: ActionTokenizer,
    network: LLMRecognizer,
    joints: Float[Tensor, "B T M V 3"],
    persons: Bool[Tensor, "B M"],
    lengths: Int[Tensor, " B"] | None = None,
) -> list[tuple[Sentences, Tensor]]:
    """What ``network`` reads, and which of it counts, of every view that the tokenizer's preprocessing asks for."""
    views = tokenizer.preprocess.views(joints, tokenizer.vqvae.features.layout)
    return [network.read(tokenizer, view, persons, lengths) for view in views]


def score_views(
    network: LLMRecognizer, views: Sequence[tuple[Sentences, Tensor]], listed: Sequence[Sequence[int]] | None = None
) -> Answers:
    """Scores of every class, the mean over views; ``listed`` are the classes that the prompts name."""
    scores = [network.score(*view, listed) for view in views]
    mean = [torch.stack(part).mean(0) for part in zip(*scores, strict=True)]
    return Answers(*mean)


class Recognizer:
    """A frozen action tokenizer and a tuned language model.

    Example:
        >>> recognizer = Recognizer.from_pretrained("runs/demo/stage2/recognizer")  # doctest: +SKIP
        >>> recognizer.recognize("S001C001P001R001A001.skeleton").name  # doctest: +SKIP
    """

    def __init__(self, tokenizer: ActionTokenizer, network: LLMRecognizer) -> None:
        """Both are put in eval mode, on the GPU where there is one."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer, self.network = tokenizer.eval().to(self.device), network.eval().to(self.device)

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, llm: str | None = None, class_names: Sequence[str] | None = None
    ) -> "Recognizer":
        """Read the folder that stage 2 exports; ``llm`` names the language model's folder where it has moved.

        ``class_names`` are the answers in question, also ones that it was never tuned on; None for those of its data.

        Raises:
            FileNotFoundError: a file or the language model is missing.
            ValueError: a file is damaged, the language model is another one, or it cannot spell or tell apart the names
                or has no room for the prompt.
        """
        read_config(folder)
        tokenizer = ActionTokenizer.from_pretrained(Path(folder) / "tokenizer")  # the smaller part first
        longest = tokenizer.longest_sentence
        return cls(tokenizer, load_network(folder, llm, class_names=class_names, sentence=longest))

    def save_pretrained(self, folder: Path | str, llm: LanguageModel, tuning: Tuning, prompt: Prompt) -> None:
        """Write a folder that stands alone but for the language model itself, with a model card."""
        folder = Path(folder)
        save_network(self.network, folder, llm, tuning, prompt)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        write_card(folder)

    def read(self, path: Path | str) -> Clip:
        """The raw file as a clip: its actors, units and axes taken as in the data that the tokenizer was trained on.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that its reader refuses, or another skeleton layout than the tokenizer's.
        """
        dataset = self.tokenizer.info.get("dataset", {})
        return self._fitting(read_clip(path, dataset.get("actors", "ctrgcn"), dataset.get("own")))

    def _fitting(self, clip: Clip) -> Clip:
        if clip.layout != self.tokenizer.layout:
            raise ValueError(
                f"{clip.source or 'clip'}: has the layout {clip.layout}, this tokenizer reads {self.tokenizer.layout};"
                " use a recogniser trained on such skeletons"
            )
        return clip

    @torch.no_grad()
    def probabilities(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Probability of every class among the known ones: softmax of exact log-likelihoods over the temperature."""
        given = (joints.to(self.device), persons.to(self.device), None if lengths is None else lengths.to(self.device))
        scores = score_views(self.network, read_views(self.tokenizer, self.network, *given))
        return (scores.log_likelihoods / self.network.temperature).softmax(-1).cpu()

    @overload
    def recognize(self, source: Path | str | Clip, *, batch_size: int = ..., free: bool = ...) -> Answer: ...
    @overload
    def recognize(
        self,
        source: list[str] | Sequence[Path | Clip | np.ndarray | Tensor],
        *,
        batch_size: int = ...,
        free: bool = ...,
    ) -> list[Answer]: ...
    @overload
    def recognize(
        self, source: np.ndarray | Tensor, *, batch_size: int = ..., free: bool = ...
    ) -> Answer | list[Answer]: ...
    def recognize(
        self, source: Source | Sequence[Source], *, batch_size: int = 32, free: bool = False
    ) -> Answer | list[Answer]:
        """Name the action in a clip, or in each of several.

        Args:
            source: a raw file of any format that ``skeletons.readers.read_clip`` knows, a ``Clip``, or joints
                [T, M, V, 3] or [T, V, 3] in metres; several are a list of such or joints [B, T, M, V, 3], and get a
                list of answers.
            batch_size: clips answered at once; no answer depends on it.
            free: also let the language model say anything (``Answer.said``); takes longer than the answer itself.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that its reader refuses, or another skeleton layout or shape than the tokenizer's.
        """
        if isinstance(source, np.ndarray | Tensor):
            one, sources = source.ndim < 5, list(source) if source.ndim == 5 else [source]
        else:
            one = isinstance(source, Path | str | Clip)
            sources = [source] if isinstance(source, Path | str | Clip) else list(source)
        answers: list[Answer] = []
        for first in range(0, len(sources), batch_size):
            clips = [self._clip(given) for given in sources[first : first + batch_size]]
            answers += self._answers(clips, free=free)
        return answers[0] if one else answers

    def _clip(self, source: Source) -> Clip:
        if isinstance(source, Path | str):
            return self.read(source)
        return self._fitting(source) if isinstance(source, Clip) else self.tokenizer.clips([source])[0]

    @torch.no_grad()
    def _answers(self, clips: Sequence[Clip], *, free: bool) -> list[Answer]:
        prepared = self.tokenizer.batch(clips)
        names, probability = self.network.class_names, self.probabilities(*prepared)
        top = probability.topk(min(_TOP, len(names)))
        tokens, mask = (part.cpu() for part in self.tokenizer.sentences(*prepared))
        said: Sequence[str | None] = [None] * len(clips)
        if free:
            said = self.network.generate(*self.network.read(self.tokenizer, *prepared))
        best = [
            [(names[i], p) for i, p in zip(*row, strict=True)]
            for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        return [
            Answer(name=best[row][0][0], top=best[row], sentence=tokens[row][mask[row]].tolist(), said=said[row])
            for row in range(len(clips))
        ]
