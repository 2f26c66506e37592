"""The built-in language model: a small LLaMA pretrained on WordNet's English, so that stage 2 runs offline.

Make it again (one core, about half an hour)::

    apt-get install wordnet-base
    make builtin-llm            # python -m skeleton_llm.language.built_in
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from skeleton_llm.language.wordnet import documents, read_synsets

BUILT_IN = Path(__file__).parent / "resources" / "built_in"
_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
PHRASES = [
    "Given a sequence of action tokens [tokens], please predict the corresponding action.",
    "Given a sequence of action tokens [tokens], please predict the corresponding action from [list].",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
]


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule of the built-in model."""

    vocabulary: int = 4096
    width: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 384
    row: int = 256
    """Tokens a training row, documents packed end to end."""
    batch: int = 32
    steps: int = 1600
    warmup: int = 100
    lr: float = 5e-3
    held_out: int = 50
    """Every so manieth synset is kept for the perplexity."""
    seed: int = 0


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE that gives every text back unchanged (decode(encode(x)) == x)."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", _SPECIAL.index("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def new_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """The untrained network, drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        )
    )


def pack(texts: list[str], tokenizer: PreTrainedTokenizerFast, row: int) -> Tensor:
    """Documents end to end, each between <s> and </s>, cut into rows [rows, row] of token ids."""
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    flat = torch.tensor(list(itertools.chain.from_iterable([1, *ids, 2] for ids in encoded)))
    rows = len(flat) // row
    if rows == 0:
        raise ValueError(f"the corpus has {len(flat)} tokens, fewer than one row of {row}; give it more text")
    return flat[: rows * row].view(rows, row)


@torch.no_grad()
def perplexity(model: nn.Module, rows: Tensor) -> float:
    """Exp of the mean next-token cross entropy over ``rows`` [rows, row]."""
    model.eval()
    losses = [model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(16)]
    return math.exp(sum(losses) / len(rows))


def pretrain(model: nn.Module, rows: Tensor, recipe: Recipe) -> None:
    """AdamW with cosine decay over random rows; bfloat16 autocast (three times faster where the CPU has AMX)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / recipe.warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * s / recipe.steps))),
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    order = itertools.chain.from_iterable(
        torch.randperm(len(rows), generator=generator).split(recipe.batch) for _ in itertools.count()
    )
    model.train()
    begin = time.monotonic()
    for step, index in zip(range(recipe.steps), order, strict=False):
        part = rows[index]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=part, labels=part).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            sys.stderr.write(
                f"step {step} of {recipe.steps}: loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s\n"
            )


def sample(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: str, **options: object) -> str:
    """A continuation of ``prompt``; greedy unless ``options`` ask ``generate`` for something else."""
    ids = torch.tensor([[1, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
    settings = {"do_sample": False, "max_new_tokens": 24, **options}
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return str(tokenizer.decode(out[0], skip_special_tokens=True))


def build(wordnet: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """Tokenizer and model from WordNet's files into ``out``; returns the held-out perplexities."""
    synsets = read_synsets(wordnet)
    kept = [s for i, s in enumerate(synsets) if i % recipe.held_out]
    held = [s for i, s in enumerate(synsets) if i % recipe.held_out == 0]
    texts = list(documents(kept, recipe.seed))
    tokenizer = train_tokenizer(iter(texts + PHRASES * 50), recipe.vocabulary)
    generator = torch.Generator().manual_seed(recipe.seed)
    texts = [texts[i] for i in torch.randperm(len(texts), generator=generator).tolist()]
    rows = pack(texts + PHRASES, tokenizer, recipe.row)
    held_rows = pack(list(documents(held, recipe.seed)), tokenizer, recipe.row)
    model = new_model(recipe, len(tokenizer))
    report = {"train_tokens": float(rows.numel()), "untrained": perplexity(model, held_rows)}
    sys.stderr.write(f"{len(texts)} documents, {rows.numel()} tokens; {held_rows.numel()} held out\n")
    pretrain(model, rows, recipe)
    model.half()  # stored so: 2.6 MB
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    settings = json.loads((out / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every version of transformers knows
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    model.float()
    report["trained"] = perplexity(model, held_rows)
    report["parameters"] = float(sum(p.numel() for p in model.parameters()))
    report["embedding_rms_norm"] = model.lm_head.weight.float().square().sum(-1).mean().sqrt().item()
    return report


def main() -> int:
    """Command of ``make builtin-llm``."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, default=BUILT_IN)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    arguments = parser.parse_args()
    try:
        report = build(arguments.wordnet, arguments.out, Recipe(steps=arguments.steps))
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    model = LlamaForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.out)
    lines = [f"{name}: {value:.4g}" for name, value in report.items()]
    for prompt in ("to walk is to", "a chair is", "please predict the corresponding action ."):
        lines.append("greedy: " + sample(model, tokenizer, prompt))
        torch.manual_seed(0)
        lines.append("T = 0.8: " + sample(model, tokenizer, prompt, do_sample=True, temperature=0.8))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
