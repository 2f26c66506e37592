import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from skeleton_llm.language import NameTrie

NAMES = [[5], [5, 6], [5, 6, 7, 8], [9, 6], [9, 5, 5], [10]]
END = 2


def models():
    small = {
        "vocab_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 16,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    yield LlamaForCausalLM(LlamaConfig(**small, num_key_value_heads=2))
    yield Qwen2ForCausalLM(Qwen2Config(**small, num_key_value_heads=2))
    yield GPT2LMHeadModel(GPT2Config(vocab_size=20, n_layer=2, n_head=4, n_embd=16))


@pytest.mark.parametrize("model", list(models()), ids=lambda m: type(m).__name__)
def test_every_names_likelihood_equals_brute_force_also_with_masked_prompts(model):
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # peaked distributions
    prompt, mask = torch.randn(4, 7, 16), torch.ones(4, 7, dtype=torch.bool)
    mask[1, 4:6] = False
    mask[2, :3] = False
    scores = NameTrie(NAMES, END).score(model, prompt, mask)
    for row in range(4):
        real = prompt[row][mask[row]]
        for column, name in enumerate(NAMES):
            ids = torch.tensor([*name, END])
            given = torch.cat([real, model.get_input_embeddings()(ids[:-1])])[None]
            logits = model(inputs_embeds=given).logits[0, len(real) - 1 :].log_softmax(-1)
            truth = logits.gather(1, ids[:, None]).sum()
            assert scores[row, column].item() == pytest.approx(truth.item(), abs=1e-4)


def test_all_answers_of_a_prefix_free_alphabet_sum_to_one():
    torch.manual_seed(0)
    model = next(models()).eval()
    trie = NameTrie([[token] for token in range(20) if token != END], END)
    names = trie.score(model, torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    assert (names.exp().sum(-1) < 1).all()  # the rest goes to longer answers
    assert trie.lengths.tolist() == [2.0] * 19


def test_chunks_of_prompts_give_what_all_at_once_give(monkeypatch):
    model = next(models()).eval()
    prompt, mask = torch.randn(5, 4, 16), torch.ones(5, 4, dtype=torch.bool)
    trie = NameTrie(NAMES, END)
    whole = trie.score(model, prompt, mask)
    monkeypatch.setattr("skeleton_llm.language.scoring._MOST_LOGITS", 2 * 20 * len(trie.tokens))
    torch.testing.assert_close(trie.score(model, prompt, mask), whole)


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="must differ in their tokens"):
        NameTrie([[1, 2], [1, 2]], END)
    with pytest.raises(ValueError, match="must differ in their tokens"):
        NameTrie([[1], []], END)
