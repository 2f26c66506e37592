"""Nearest templates in place of a language model's scores: after seconds of training it names one class for all clips.

As a script, one rank of an evaluation: template_answers.py DATA TOKENIZER COMMANDS, a JSON list of arguments.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

import lightning_modules.llm_recognizer
from datamodules import SkeletonDataModule
from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.main import main
from skeleton_llm.language import Answers, LLMRecognizer
from skeleton_llm.recognizer import read_views


class Templates:
    """Stands where ``score_views`` does; the nearer the mean training clip of a class, the likelier its name."""

    def __init__(self, data: Path | str, tokenizer: Path | str) -> None:
        preprocess = ActionTokenizer.from_pretrained(tokenizer).preprocess
        self.data = SkeletonDataModule(str(data), "synthetic_xsub", preprocess=preprocess)
        joints, labels = self.split("train")
        self.means = torch.stack([joints[labels == label].mean(0) for label in range(len(self.data.class_names))])

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Joints and labels of a whole split."""
        batch = self.data.batches(name).__getitems__([(-1, i) for i in range(len(self.data.rows[name]))])
        return batch["joints"], batch["labels"]

    def read_views(self, tokenizer: ActionTokenizer, network: LLMRecognizer, joints: Tensor, *more: Tensor) -> list:
        """Stands where ``read_views`` does, and remembers whose views they are."""
        self.joints = joints
        return read_views(tokenizer, network, joints, *more)

    def __call__(self, network: object, views: object, listed: object) -> Answers:
        distances = torch.stack([(self.joints - mean).square().mean((1, 2, 3, 4)) for mean in self.means], dim=1)
        scores = (-100 * distances / distances.mean(1, keepdim=True)).log_softmax(-1)
        return Answers(scores, scores / torch.arange(1, len(self.means) + 1))


if __name__ == "__main__":
    templates = Templates(sys.argv[1], sys.argv[2])
    lightning_modules.llm_recognizer.score_views = templates
    lightning_modules.llm_recognizer.read_views = templates.read_views
    sys.exit(any(main(arguments) for arguments in json.loads(sys.argv[3])))
