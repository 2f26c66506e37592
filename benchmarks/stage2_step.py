"""Stage-2 training against Hugging Face's Trainer with ``labels=``: the same model, clips and batch size.

python -m benchmarks.stage2_step

The peer pads to the longest clip of a random batch, runs the tokenizer in its collator and lets the model compute every
logit; ours reads kept sentences in batches of like length, computes logits where answers stand, and the prompts' common
beginning once. Ratios of real tokens a second (padding does not count), a pass over the same clips each. Sentences have
20 tokens on average, and their lengths the relative spread of UTD-MHAD's clips or of NW-UCLA's.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

from datamodules.stream import Stream
from skeleton_llm.language import Inputs, LLMRecognizer, Prompt, Tuning, Wording, add_action_words
from skeleton_llm.language.built_in import PHRASES, train_tokenizer
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.skeletons import Preprocess
from skeleton_llm.skeletons.class_names import class_names

CLIPS, BATCH, ROUNDS = 256, 16, 3
SPREADS = {"UTD-MHAD": 0.19, "NW-UCLA": 0.70}  # deviation of the clips' lengths to their mean


class Clips:
    """Random skeletons with their sentences, whose lengths are log-normal about 20 tokens."""

    def __init__(self, tokenizer: ActionTokenizer, wording: Wording, spread: float) -> None:
        """Draw and tokenise them."""
        self.tokenizer, self.wording = tokenizer, wording
        sigma = math.log1p(spread**2) ** 0.5
        self.lengths = 4 * (20 * (sigma * torch.randn(CLIPS) - sigma**2 / 2).exp()).round().clamp(2, 100).int()
        self.joints = torch.randn(CLIPS, int(self.lengths.max()), 2, 25, 3)
        self.persons = torch.ones(CLIPS, 2, dtype=torch.bool)
        self.labels = torch.randint(len(wording.class_names), (CLIPS,))
        self.tokens, self.mask = tokenizer.sentences(self.joints, self.persons, self.lengths)

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, index: int) -> int:
        return index

    def costs(self) -> np.ndarray:
        """Tokens of each clip's sentence and answer."""
        return self.mask.sum(1).numpy() + self.wording.lengths[self.labels]

    def collate(self, rows: list[int]) -> dict[str, Tensor]:
        """What the Trainer's model reads."""
        length = self.lengths[rows]
        joints = self.joints[rows][:, : int(length.max())]
        tokens, mask = self.tokenizer.sentences(joints, self.persons[rows], length)
        before, after = self.wording.around()
        first = int(self.wording.text.convert_tokens_to_ids("<action_0>"))  # type: ignore[arg-type]
        whole, labels = [], []
        for sentence, there, label in zip(tokens, mask, self.labels[rows], strict=True):
            answer = self.wording.answers[label]
            answer = answer[answer != -100].tolist()
            prompt = [*before, *(sentence[there] + first).tolist(), *after]
            whole.append(torch.tensor(prompt + answer))
            labels.append(torch.tensor([-100] * len(prompt) + answer))
        pad = torch.nn.utils.rnn.pad_sequence
        attended = pad([torch.ones_like(row) for row in whole], batch_first=True)
        return {
            "input_ids": pad(whole, batch_first=True),
            "attention_mask": attended,
            "labels": pad(labels, batch_first=True, padding_value=-100),
        }


def trainer_pass(model: torch.nn.Module, clips: Clips) -> float:
    """Seconds of one pass by Hugging Face's Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[], disable_tqdm=True,
            save_strategy="no", logging_strategy="no", use_cpu=True, learning_rate=1e-4, remove_unused_columns=False,
        )  # fmt: skip
        peer = Trainer(model, arguments, train_dataset=clips, data_collator=clips.collate)  # type: ignore[arg-type]
        peer.remove_callback(PrinterCallback)
        begin = time.perf_counter()
        peer.train()
        return time.perf_counter() - begin


def our_pass(network: LLMRecognizer, clips: Clips, turn: int) -> float:
    """Seconds of one pass by ``LLMRecognizer.loss``."""
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    begin = time.perf_counter()
    for rows in batches(clips, turn):
        longest = int(clips.mask[rows].sum(1).max())
        network.loss(clips.tokens[rows, :longest], clips.mask[rows, :longest], clips.labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # as the Trainer does
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begin


def batches(clips: Clips, turn: int) -> Iterator[list[int]]:
    """One pass in batches of like length."""
    size = CLIPS // BATCH
    for keys in Stream(CLIPS, BATCH, seed=turn, start=0, horizon=size, lengths=clips.costs()):
        yield [index for _, index in keys]


def compare(vocabulary: int, width: int, layers: int, dataset: str) -> None:
    """One ratio."""
    torch.manual_seed(0)
    names = list(class_names("ntu").values())
    text = train_tokenizer(iter([*names, *PHRASES] * 50), 512)
    config: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 2 * width}
    base = LlamaForCausalLM(
        LlamaConfig(**config, num_hidden_layers=layers, num_attention_heads=8, tie_word_embeddings=False)
    ).requires_grad_(requires_grad=False)
    network = VQVAE(VQVAEConfig(width=128, num_codes=128), layout="ntu25", num_persons=2, dim=width)
    tokenizer = ActionTokenizer(network, Preprocess(length="whole"), {})
    wording = Wording(text, names, Prompt())
    actions = add_action_words(base, text, tokenizer.num_codes)
    tuned = Tuning(r=8, dropout=0.0).apply(base).train()
    ours = LLMRecognizer(tuned, wording, Inputs("vocabulary"), actions=actions)
    clips = Clips(tokenizer, wording, SPREADS[dataset])
    rows = list(range(BATCH))
    theirs = tuned(**clips.collate(rows)).loss
    apart = (ours.loss(clips.tokens[rows], clips.mask[rows], clips.labels[rows]) - theirs).abs().item()
    head = vocabulary * width / (sum(p.numel() for p in base.parameters()) - vocabulary * width)
    trainer_pass(tuned, clips), our_pass(ours, clips, 0)
    found = []
    for turn in range(ROUNDS):
        peer = trainer_pass(tuned, clips)
        found.append(peer / our_pass(ours, clips, turn))
    print(
        f"vocabulary {vocabulary}, width {width}, the output matrix {head:.0%} of the weights computed with, lengths"
        f" like {dataset}'s: {median(found):.2f} times the Trainer's tokens a second (losses {apart:.1e} apart)"
    )


if __name__ == "__main__":
    for name in SPREADS:
        compare(vocabulary=32000, width=384, layers=6, dataset=name)
        compare(vocabulary=640, width=512, layers=12, dataset=name)  # a share like LLaMA 13B's
