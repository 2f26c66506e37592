"""One folder and one raw skeleton file in, one answer out."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skeleton_llm.language import Answers, LanguageModel, LLMRecognizer, Prompt, Tuning, load_network, save_network
from skeleton_llm.networks import ActionTokenizer
from skeleton_llm.skeletons import Clip
from skeleton_llm.skeletons.readers import read_clip

_TOP = 5


@dataclass(frozen=True)
class Answer:
    """What was recognised.

    Attributes:
        name: the most likely action.
        top: the five most likely actions with their probabilities among the known ones, best first.
        sentence: the action sentence, token indices.
        said: what the language model answers when it may say anything.
    """

    name: str
    top: list[tuple[str, float]]
    sentence: list[int]
    said: str


def score_views(
    tokenizer: ActionTokenizer,
    network: LLMRecognizer,
    joints: Float[Tensor, "B T M V 3"],
    persons: Bool[Tensor, "B M"],
    lengths: Int[Tensor, " B"] | None = None,
) -> Answers:
    """Scores of every class, the mean over the views that the tokenizer's preprocessing asks for."""
    views = tokenizer.preprocess.views(joints, tokenizer.vqvae.features.layout)
    scores = [network.score(*tokenizer.embed(view, persons, lengths)) for view in views]
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
    def from_pretrained(cls, folder: Path | str, *, llm: str | None = None) -> "Recognizer":
        """Read the folder that stage 2 exports; ``llm`` names the language model's folder where it has moved.

        Raises:
            FileNotFoundError: a file or the language model is missing.
            ValueError: a file is damaged, or the language model is another one.
        """
        network = load_network(folder, llm)
        return cls(ActionTokenizer.from_pretrained(Path(folder) / "tokenizer"), network)

    def save_pretrained(self, folder: Path | str, llm: LanguageModel, tuning: Tuning, prompt: Prompt) -> None:
        """Write a folder that stands alone but for the language model itself, with a model card."""
        folder = Path(folder)
        save_network(self.network, folder, llm, tuning, prompt)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        (folder / "README.md").write_text(_card(self, llm, tuning))

    def read(self, path: Path | str) -> Clip:
        """The raw file as a clip: its actors, units and axes taken as in the data that the tokenizer was trained on."""
        dataset = self.tokenizer.info.get("dataset", {})
        return read_clip(path, dataset.get("actors", "ctrgcn"), dataset.get("own"))

    @torch.no_grad()
    def probabilities(
        self,
        joints: Float[Tensor, "B T M V 3"],
        persons: Bool[Tensor, "B M"],
        lengths: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Probability of every class among the known ones: softmax of exact log-likelihoods over the temperature."""
        given = (joints.to(self.device), persons.to(self.device), None if lengths is None else lengths.to(self.device))
        scores = score_views(self.tokenizer, self.network, *given)
        return (scores.log_likelihoods / self.network.temperature).softmax(-1).cpu()

    @torch.no_grad()
    def recognize(self, source: Path | str | Clip) -> Answer:
        """Name the action in a clip or in a raw file of any format that ``skeletons.readers.read_clip`` knows.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that its reader refuses, or another skeleton layout than the tokenizer's.
        """
        clip = source if isinstance(source, Clip) else self.read(source)
        prepared = self.tokenizer.batch([clip])
        probability = self.probabilities(*prepared)[0]
        best = probability.argsort(descending=True)[:_TOP].tolist()
        names = self.network.class_names
        tokens, mask = self.tokenizer.sentences(*prepared)
        return Answer(
            name=names[best[0]],
            top=[(names[i], float(probability[i])) for i in best],
            sentence=tokens[mask].tolist(),
            said=self.network.generate(*self.tokenizer.embed(*prepared))[0],
        )


def _card(recognizer: Recognizer, llm: LanguageModel, tuning: Tuning) -> str:
    names = "\n".join(f"- {name}" for name in recognizer.network.class_names)
    tokenizer, dataset = recognizer.tokenizer, recognizer.tokenizer.info.get("dataset", {})
    return f"""---
library_name: skeleton-llm
base_model: {llm.name}
tags: [skeleton-based-action-recognition]
---
# Skeleton action recogniser

A language model ({llm.name}, tuning: {tuning.mode}) that reads action sentences (a codebook of {tokenizer.num_codes}
tokens) and answers with one of {len(recognizer.network.class_names)} actions. Trained with skeleton-llm on
{dataset.get("name", "?")} (layout {tokenizer.layout}).

    skeleton-llm recognize FILE --model THIS_FOLDER

## Actions
{names}
"""
