"""Exact closed-set answers for NTU's 120 classes against Hugging Face's greedy generation and cached brute force.

python -m benchmarks.answers
"""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.alternate import ratios, show
from skeleton_llm.language import LanguageModel, NameTrie
from skeleton_llm.language.scoring import pad
from skeleton_llm.language.tree_attention import read_prefix, read_prompt
from skeleton_llm.skeletons.class_names import class_names

BATCH, CODES, PREFIX, SUFFIX = 32, 512, 9, 12  # a prompt is 9 words, 14 to 26 codes and 12 words: 41 on average
Batch = tuple[Tensor, Tensor]


class Sentences:
    """Synthetic action sentences: each class says its own eight codes half of the time and any code else."""

    def __init__(self, words: int, classes: int) -> None:
        """Draw the classes; codes are ids behind the words."""
        self.words, self.favourites = words, torch.randint(CODES, (classes, 8))
        self.prefix, self.suffix = torch.randint(4, words, (PREFIX,)), torch.randint(4, words, (SUFFIX,))

    def draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts [B, P], padded between the codes and the suffix, and what counts in them."""
        lengths = torch.randint(14, 27, (len(labels),))
        own = self.favourites[labels].gather(1, torch.randint(8, (len(labels), 26)))
        codes = own.where(torch.rand(own.shape) < 0.5, torch.randint(CODES, own.shape)) + self.words
        around = [part.expand(len(labels), -1) for part in (self.prefix, self.suffix)]
        there = torch.arange(26) < lengths[:, None]
        mask = F.pad(F.pad(there, (PREFIX, 0), value=True), (0, SUFFIX), value=True)
        return torch.cat([around[0], codes, around[1]], dim=1), mask


def train(model: LlamaForCausalLM, sentences: Sentences, answers: Tensor, steps: int) -> None:
    """Some hundred steps: on a model that likes no name the search would open them all."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        labels = torch.randint(len(answers), (BATCH,))
        prompt, mask = sentences.draw(labels)
        answer = answers[labels]
        real = answer != -100
        attended = torch.cat([mask, real[:, :-1]], dim=1)
        logits = model(
            input_ids=torch.cat([prompt, answer.where(real, 0)[:, :-1]], dim=1),
            attention_mask=attended.long(),
            position_ids=(attended.cumsum(1) - 1).clamp_min(0),
            logits_to_keep=answer.shape[1],
            use_cache=False,
        ).logits
        loss = F.cross_entropy(logits.flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: loss {loss:.3f}", flush=True)


def brute_force(model: LlamaForCausalLM, batch: Batch, groups: list[Tensor]) -> Tensor:
    """All names behind one cached prompt at a time: the peer of the full posterior.

    Names of a group are one batch, padded to its longest. One group is what one writes first; one for each length
    leaves no padding.
    """
    scores = []
    for prompt, mask in zip(*batch, strict=True):
        first, read = read_prompt(model, prompt[mask][None], mask[mask][None])
        for answers in groups:
            cache = read if len(groups) == 1 else copy.deepcopy(read)
            cache.batch_repeat_interleave(len(answers))
            real = answers != -100
            rest = model(input_ids=answers.where(real, 0)[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([first.expand(len(answers), -1, -1), rest], dim=1).log_softmax(-1)
            steps = logits.gather(2, answers.where(real, 0)[..., None])[..., 0]
            scores.append(steps.where(real, 0).sum(1))
    return torch.cat(scores).view(len(batch[0]), -1)


def left(batch: Batch) -> Batch:
    """The same prompts with their padding on the left, where ``generate`` wants it."""
    order = batch[1].int().argsort(dim=1, stable=True)
    return batch[0].gather(1, order[..., None].expand_as(batch[0])), batch[1].gather(1, order)


@torch.no_grad()
def compare(steps: int = 300) -> None:
    """Train, then two tables: the best name, and the likelihood of all names."""
    torch.manual_seed(0)
    words, end = LanguageModel().tokenizer(), 2
    names = [words(f" {name}", add_special_tokens=False)["input_ids"] for name in class_names("ntu").values()]
    trie, answers = NameTrie(names, end), pad([[*name, end] for name in names], -100)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words) + CODES, eos_token_id=end, pad_token_id=3, **sizes))
    sentences = Sentences(len(words), len(names))
    print(f"{len(names)} names of {int(trie.lengths.sum()) - len(names)} tokens, {trie.num_inner - 1} inner nodes")
    with torch.enable_grad():
        train(model, sentences, answers, steps)
    model.eval()
    labels = torch.arange(128) % len(names)
    ids, mask = sentences.draw(labels)
    given = model.get_input_embeddings()(ids)
    batches: list[Batch] = list(zip(given.split(BATCH), mask.split(BATCH), strict=True))
    lefts = [left(batch) for batch in batches]
    settings = GenerationConfig(max_new_tokens=answers.shape[1], do_sample=False, eos_token_id=end, pad_token_id=3)
    prefix = read_prefix(model, given[0, :PREFIX])

    def generate() -> list[Tensor]:
        return [model.generate(inputs_embeds=x, attention_mask=m.long(), generation_config=settings) for x, m in lefts]

    def best(count: int = 1, *, shared: bool = False) -> Tensor:
        cache = prefix if shared else None
        return torch.cat([trie.best(model, *batch, count, prefix=cache).classes for batch in batches])

    functions = {
        "Hugging Face generate, greedy, batched (peer)": generate,
        "best-first, exact": best,
        "best-first, shared prefix": lambda: best(shared=True),
        "best-first, top 5": lambda: best(5),
        "prompt alone (floor)": lambda: [read_prompt(model, *batch) for batch in batches],
    }
    show("the name of 128 prompts in batches of 32 (ratio to generate)", ratios(functions))

    few, lengths = batches[0], (answers != -100).sum(1)
    groups = [answers[lengths == length, :length] for length in lengths.unique().tolist()]
    posteriors = {
        "full posterior by tree attention": lambda: trie.score(model, *few),
        "full posterior, shared prefix": lambda: trie.score(model, *few, prefix=prefix),
        "brute force with a cached prompt (peer)": lambda: brute_force(model, few, [answers]),
        "the same, names of each length apart": lambda: brute_force(model, few, groups),
        "Hugging Face generate, greedy, batched": lambda: model.generate(
            inputs_embeds=lefts[0][0], attention_mask=lefts[0][1].long(), generation_config=settings
        ),
    }
    show("all 120 likelihoods of 32 prompts (ratio to the tree)", ratios(posteriors))

    truth = torch.cat([trie.score(model, *batch) for batch in batches])
    free = [[word for word in row if word not in (end, 3)] for part in generate() for row in part.tolist()]
    chosen = truth.argmax(1)
    same = sum(row == names[index] for row, index in zip(free, chosen.tolist(), strict=True)) / len(free)
    print(
        f"  tree against brute force: {(truth[:BATCH] - brute_force(model, few, [answers])).abs().max():.1e} nats apart"
    )
    print(
        f"  best-first says what the posterior says: {(best()[:, 0] == chosen).float().mean():.1%}, greedy {same:.1%}"
    )
    print(f"  right answers: {(chosen == labels).float().mean():.1%}")


if __name__ == "__main__":
    compare()
