from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from skeleton_llm.language.scoring import NameTrie, ties
from skeleton_llm.language.tree_attention import read_prefix

END, VOCABULARY, SHARED = 2, 200, 3
SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": lambda **more: LlamaConfig(**{**SMALL, **more}),
    "qwen2": lambda **more: Qwen2Config(**{**SMALL, **more}),
    "qwen3": lambda **more: Qwen3Config(**{**SMALL, "head_dim": 4, **more}),
    "mistral": lambda **more: MistralConfig(**{**SMALL, **more}),
    "gpt2": lambda **more: GPT2Config(
        vocab_size=VOCABULARY,
        n_layer=2,
        n_head=4,
        n_embd=16,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=END,
    ),
}
EXACT = [(kind, "float32", "sdpa") for kind in CONFIGS] + [("llama", "float32", "eager"), ("gpt2", "float32", "eager")]
COARSE = [(kind, "bfloat16", "sdpa") for kind in CONFIGS]


def make(kind, dtype="float32", attention="sdpa", **more):
    """A random model with peaked answers: long names must be able to beat short ones."""
    torch.manual_seed(kind == "mistral")  # at this size it is LLaMA but for the seed
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**more), attn_implementation=attention).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(6)
    return model.to(getattr(torch, dtype)).requires_grad_(requires_grad=False)


def steps(model, prompt, ids):
    """Log-likelihood of each id after one unpadded prompt, by one plain forward without a cache."""
    given = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids[:-1], dtype=torch.long))])[None]
    logits = model(inputs_embeds=given, use_cache=False).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
    return logits[range(len(ids)), ids].double(), logits


def brute_force(model, prompts, names):
    return torch.tensor([[steps(model, prompt, [*name, END])[0].sum() for name in names] for prompt in prompts])


@cache
def case(kind, dtype, attention):
    """Model, ragged prompts with a shared beginning, names of the model's own liking and others, the truth."""
    model = make(kind, dtype, attention)
    shared = torch.randn(SHARED, 16)
    prompts = [torch.cat([shared, torch.randn(length, 16)]).to(model.dtype) for length in (6, 3, 1, 4, 6, 2)]
    names = []
    for prompt in prompts[:3]:  # each greedy answer, and what it begins with
        answer = []
        for _ in range(4):
            logits = steps(model, prompt, [*answer, END])[1][-1]
            logits[END] = -torch.inf
            answer.append(int(logits.argmax()))
        names += [answer[:1], answer[:2], answer]
    names += torch.randint(5, 9, (12, 4)).tolist() + torch.randint(5, 9, (6, 2)).tolist() + [[5], [150], [151, 5]]
    names = [list(name) for name in dict.fromkeys(map(tuple, names))]
    return model, prompts, names, brute_force(model, prompts, names)


def padded(prompts, side):
    """One batch; what stands in the padding must not matter."""
    longest = max(map(len, prompts)) + 1
    batch = torch.randn(len(prompts), longest, 16).to(prompts[0].dtype)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        places = {
            "left": range(longest - len(prompt), longest),
            "right": range(len(prompt)),
            "middle": [*range(len(prompt) - 1), longest - 1],
        }[side]
        batch[row, places], mask[row, places] = prompt, True
    return batch, mask


@contextmanager
def reads(model):
    """The words of each pass behind the prompt, as they come."""
    given = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs["input_ids"]) if "input_ids" in kwargs else None, with_kwargs=True
    )
    yield given
    hook.remove()


def beginnings(names):
    """What stands in the trie: every name and all that it begins with."""
    return [tuple(name[:length]) for name in names for length in range(1, len(name) + 1)]


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("which", EXACT, ids="-".join)
def test_both_answers_equal_brute_force(which, side):
    model, prompts, names, truth = case(*which)
    batch, trie = padded(prompts, side), NameTrie(names, END)
    torch.testing.assert_close(trie.score(model, *batch).double(), truth, atol=1e-4, rtol=0)
    for count in (1, 4, len(names)):
        best, expected = trie.best(model, *batch, count), truth.topk(count)
        torch.testing.assert_close(best.log_likelihoods.double(), expected.values, atol=1e-4, rtol=0)
        assert best.classes.equal(expected.indices)
    assert len({len(names[index]) for index in truth.argmax(1)}) > 1  # not only the shortest name ever wins


@pytest.mark.parametrize("which", COARSE, ids="-".join)
def test_bfloat16_agrees_with_brute_force_wherever_it_can_tell_names_apart(which):
    model, prompts, names, truth = case(*which)
    assert_agrees_where_it_can(model, prompts, names, truth)


@pytest.mark.parametrize("which", EXACT[:5], ids="-".join)
def test_autocast_agrees_with_brute_force_wherever_it_can_tell_names_apart(which):
    model, prompts, names, _ = case(*which)
    with torch.autocast("cpu", torch.bfloat16):
        assert_agrees_where_it_can(model, prompts, names, brute_force(model, prompts, names))


def assert_agrees_where_it_can(model, prompts, names, truth):
    trie, noise = NameTrie(names, END), 0.1 + torch.finfo(torch.bfloat16).eps * truth.abs()
    best = truth.topk(2)
    clear = best.values[:, 0] - best.values[:, 1] > 0.5
    assert clear.sum() >= 4
    for side in ("left", "right", "middle"):
        batch = padded(prompts, side)
        scores, found = trie.score(model, *batch), trie.best(model, *batch)
        assert ((scores - truth).abs() <= noise).all()
        assert ((found.log_likelihoods - best.values[:, :1]).abs() <= noise.gather(1, best.indices[:, :1])).all()
        for answer in (scores.argmax(1), found.classes[:, 0]):
            assert answer[clear].equal(best.indices[clear, 0])
        assert ties(scores, torch.bfloat16) <= int((~clear).sum())


def test_names_that_the_model_cannot_tell_apart_are_reported_as_ties():
    _, prompts, _, _ = case(*COARSE[0])
    model = make("llama", "bfloat16")
    for table in (model.lm_head.weight, model.get_input_embeddings().weight):
        table[151] = table[150]
    trie, batch = NameTrie([[150], [151], [152]], END), padded(prompts, "left")
    scores = trie.score(model, *batch)
    twins = scores[:, 0] > scores[:, 2]
    assert scores[:, 0].equal(scores[:, 1])
    assert ties(scores, torch.bfloat16) == int(twins.sum()) > 0
    assert {frozenset(row) for row in trie.best(model, *batch, 2).classes[twins].tolist()} == {frozenset([0, 1])}


@pytest.mark.parametrize("which", [EXACT[0], EXACT[4]], ids="-".join)
def test_candidates_are_the_only_answers(which):
    model, prompts, names, truth = case(*which)
    batch, trie = padded(prompts, "left"), NameTrie(names, END)
    allowed = [7, 2, 0, 11, 5]
    barred = truth.float().clone()
    barred[:, [index for index in range(len(names)) if index not in allowed]] = -torch.inf
    torch.testing.assert_close(trie.score(model, *batch, candidates=allowed), barred, atol=1e-4, rtol=0)
    best = trie.best(model, *batch, 2, candidates=allowed)
    assert best.classes.equal(barred.topk(2).indices)
    torch.testing.assert_close(best.log_likelihoods, barred.topk(2).values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["right", "middle"])
@pytest.mark.parametrize("which", EXACT[:5], ids="-".join)
def test_a_prefix_read_once_changes_nothing_and_serves_many_batches(which, side):
    model, prompts, names, truth = case(*which)
    batch, trie = padded(prompts[:2] + prompts[3:], side), NameTrie(names, END)
    truth = truth[[0, 1, 3, 4, 5]]
    prefix = read_prefix(model, prompts[0][:SHARED])
    for _ in range(2):
        torch.testing.assert_close(trie.score(model, *batch, prefix=prefix).double(), truth, atol=1e-4, rtol=0)
        assert trie.best(model, *batch, 3, prefix=prefix).classes.equal(truth.topk(3).indices)
    assert prefix.get_seq_length() == SHARED


def test_a_prompt_padded_where_the_prefix_stands_is_refused():
    model, prompts, names, _ = case(*EXACT[0])
    prefix = read_prefix(model, prompts[0][:SHARED])
    with pytest.raises(ValueError, match="first 3 places of each prompt are the prefix, found padding"):
        NameTrie(names, END).score(model, *padded(prompts, "left"), prefix=prefix)


@cache
def flat():
    """A model of eight words that likes none of them: the search must open nearly everything."""
    torch.manual_seed(1)
    config = LlamaConfig(**{**SMALL, "num_hidden_layers": 1, "vocab_size": 8})
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(requires_grad=False)
    return model, [torch.randn(length, 16) for length in (4, 1, 3)]


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.lists(st.integers(3, 7), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple),
    data=st.data(),
)
def test_the_search_finds_what_brute_force_finds_for_any_names(names, data):
    model, prompts = flat()
    candidates = data.draw(st.permutations(range(len(names))))[: data.draw(st.integers(1, len(names)))]
    count = data.draw(st.integers(1, len(candidates)))
    batch, trie = padded(prompts, data.draw(st.sampled_from(["left", "right", "middle"]))), NameTrie(names, END)
    truth = brute_force(model, prompts, [names[index] for index in candidates])
    best = trie.best(model, *batch, count, candidates=candidates)
    torch.testing.assert_close(best.log_likelihoods.double(), truth.topk(count).values, atol=1e-4, rtol=0)
    chosen = truth.gather(1, torch.tensor([[candidates.index(c) for c in row] for row in best.classes.tolist()]))
    torch.testing.assert_close(best.log_likelihoods.double(), chosen, atol=1e-4, rtol=0)  # equal names may swap
    assert all(len(set(row)) == count for row in best.classes.tolist())


def test_the_search_reads_few_words_where_the_model_is_sure():
    model, prompts, names, _ = case(*EXACT[0])
    trie = NameTrie(names, END)
    with reads(model) as read:
        trie.best(model, *padded(prompts, "left"))
    assert sum(given.numel() for given in read) < len(prompts) * (trie.num_inner - 1) / 4


def test_a_window_that_holds_prompt_and_name_is_exact_though_the_branches_exceed_it():
    _, prompts, names, _ = case(*EXACT[3])
    model = make("mistral", sliding_window=14)
    batch = padded(prompts, "middle")
    trie, truth = NameTrie(names, END), brute_force(model, prompts, names)
    assert batch[1].shape[1] + 4 == 14 < trie.num_inner
    torch.testing.assert_close(trie.score(model, *batch).double(), truth, atol=1e-4, rtol=0)
    assert trie.best(model, *batch, len(names)).classes.equal(truth.topk(len(names)).indices)


def test_a_window_shorter_than_prompt_and_name_is_refused():
    _, prompts, names, _ = case(*EXACT[3])
    model, trie = make("mistral", sliding_window=13), NameTrie(names, END)
    for ask in (trie.score, trie.best):
        with pytest.raises(ValueError, match="sliding_window is 13 and prompt and class name take 14 places; shorten"):
            ask(model, *padded(prompts, "left"))


def test_ties_are_what_the_resolution_cannot_tell_apart():
    scores = torch.tensor([[-4.0, -4.0, -9.0], [-4.01, -9.0, -4.0], [-4.0, -5.0, -torch.inf]])
    assert ties(scores, torch.float32) == 1
    assert ties(scores, torch.bfloat16) == 2
    assert ties(scores[:, :1], torch.bfloat16) == 0


def test_all_answers_of_a_prefix_free_alphabet_sum_to_one():
    model, prompts = flat()
    trie = NameTrie([[token] for token in range(8) if token != END], END)
    longer = NameTrie([[a, b] for a in range(8) for b in range(8) if END not in (a, b)], END)
    batch = padded(prompts, "left")
    total = trie.score(model, *batch).exp().sum(1) + longer.score(model, *batch).exp().sum(1)
    assert (total < 1).all()  # the rest goes to longer answers and to none
    assert trie.lengths.tolist() == [2.0] * 7


@pytest.mark.parametrize(("words", "logits"), [(1, 2**27), (30, 2**27), (2**11, 2 * VOCABULARY * 25)])
def test_passes_of_any_size_read_each_word_once_and_give_what_one_gives(monkeypatch, words, logits):
    model, prompts, names, truth = case(*EXACT[0])
    batch, trie = padded(prompts, "right"), NameTrie(names, END)
    monkeypatch.setattr("skeleton_llm.language.scoring._MOST_WORDS", words)
    monkeypatch.setattr("skeleton_llm.language.scoring._MOST_LOGITS", logits)
    with reads(model) as read:
        scores = trie.score(model, *batch)
    torch.testing.assert_close(scores.double(), truth, atol=1e-4, rtol=0)
    assert sum(given.numel() for given in read) == len(prompts) * (trie.num_inner - 1)
    widest = max(sum(name[0] == first for name in set(beginnings(names))) for first in {name[0] for name in names})
    assert max(given.numel() for given in read) <= max(widest, min(words, logits // VOCABULARY))
    assert len(read) > 1


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="must differ in their tokens"):
        NameTrie([[1, 2], [1, 2]], END)
    with pytest.raises(ValueError, match="must differ in their tokens"):
        NameTrie([[1], []], END)


@pytest.mark.parametrize("count", [0, 3])
def test_more_answers_than_names_are_refused(count):
    model, prompts = flat()
    with pytest.raises(ValueError, match=f"count is {count}, expected 1 to the number of class names, 2"):
        NameTrie([[5], [6]], END).best(model, *padded(prompts, "left"), count)
