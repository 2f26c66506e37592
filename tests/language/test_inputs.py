"""The forms in which action sentences enter, against Hugging Face's own forward pass."""

import pytest
import torch
from torch.nn import functional as F

from skeleton_llm.language import (
    Inputs,
    LanguageModel,
    LLMRecognizer,
    Prompt,
    Tuning,
    Wording,
    add_action_words,
    load_network,
    save_network,
)
from skeleton_llm.language.inputs import decoder_layers
from skeleton_llm.language.prompts import UNSEEN

NAMES = ["sit", "sit down", "wave the right hand"]


@pytest.fixture
def vectors():
    return F.normalize(torch.randn(10, 128, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def tokens():
    return torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [0, 0, 7, 8, 9]])


def build(inputs, vectors=None, tuning=None, prompt=None, **options):
    llm = LanguageModel()
    text, base, actions = llm.tokenizer(), llm.load(), range(0)
    torch.manual_seed(0)
    if inputs.form == "vocabulary":
        actions = add_action_words(base, text, 10, vectors)
    tuned = (tuning or Tuning(r=4, dropout=0.0)).apply(base, actions)
    return LLMRecognizer(tuned, Wording(text, NAMES, prompt or Prompt()), inputs, actions=actions, **options).eval()


def test_new_words_start_as_the_codes_and_give_the_same_answers(vectors, tokens):
    there = torch.ones_like(tokens, dtype=torch.bool)
    by_word, by_vector = build(Inputs("vocabulary"), vectors), build(Inputs("codes"))
    ids = by_word.wording.text.convert_tokens_to_ids("<action_7>")
    assert ids == by_word.actions[7]
    given = by_word.prompt(tokens, there)[0], by_vector.prompt(vectors[tokens], there)[0]
    torch.testing.assert_close(*given)
    # the output matrix is tied, so the new words take a share of every probability, and of nothing else
    one, two = (network.llm(inputs_embeds=given[0]).logits[..., :4096] for network in (by_word, by_vector))
    torch.testing.assert_close(one, two)


def test_new_words_learn_and_are_saved_with_the_adapter(vectors, tokens, tmp_path):
    there, labels = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([0, 1, 2])
    tuning = Tuning(r=4, dropout=0.0)
    network = build(Inputs("vocabulary"), vectors, tuning)
    before = network._tokens(tokens).detach().clone()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network.loss(tokens, there, labels).backward()
    optimizer.step()
    after = network._tokens(tokens).detach()
    assert not torch.allclose(before, after)
    words = network._embedding()(torch.arange(4096))
    torch.testing.assert_close(words, LanguageModel().words())  # the others stay
    save_network(network, tmp_path, LanguageModel(), tuning, Prompt())
    again = load_network(tmp_path)
    torch.testing.assert_close(again._tokens(tokens), after)
    torch.testing.assert_close(again.score(tokens, there), network.eval().score(tokens, there))


@pytest.mark.parametrize("layer", [0, 2])
def test_latents_enter_before_their_layer(vectors, tokens, layer):
    there = torch.ones_like(tokens, dtype=torch.bool)
    there[2, 3:] = False
    network, latents = build(Inputs("latents", layer=layer)), vectors[tokens]
    labels = torch.tensor([0, 1, 2])
    prompt, mask = network.prompt(latents, there)
    begin = len(network.wording.around()[0])
    assert not prompt[:, begin : begin + 5].any()
    # by hand: the hidden states of every layer, with the latents added to what enters theirs
    added = torch.zeros_like(prompt)
    added[:, begin : begin + 5] = latents * network.word_norm
    layers = decoder_layers(network.llm)
    handle = layers[layer].register_forward_pre_hook(
        lambda module, args, kwargs: (
            (args[0] + F.pad(added, (0, 0, 0, args[0].shape[1] - added.shape[1])), *args[1:]),
            kwargs,
        ),
        with_kwargs=True,
    )
    truth = []
    for label in range(3):
        answer = network.answers[label]
        answer = answer[answer != -100].expand(3, -1)
        whole = torch.cat([prompt, network._embedding()(answer)], dim=1)
        attended = torch.cat([mask, torch.ones_like(answer, dtype=torch.bool)], dim=1)
        places = (attended.cumsum(1) - 1).clamp_min(0)
        out = network.llm(inputs_embeds=whole, attention_mask=attended.long(), position_ids=places, use_cache=False)
        shown = out.logits[:, prompt.shape[1] - 1 : -1].log_softmax(-1)
        truth.append(shown.gather(-1, answer[..., None]).sum((1, 2)))
    handle.remove()
    truth = torch.stack(truth, dim=1)
    torch.testing.assert_close(network.score(latents, there).log_likelihoods, truth, rtol=1e-4, atol=1e-4)
    sizes = network.trie.lengths
    mean = -truth[range(3), labels].sum() / sizes[labels].sum()
    for shared in (True, False):
        network.share_prefix = shared
        assert network.loss(latents, there, labels).item() == pytest.approx(mean.item(), abs=1e-4)
    assert all(isinstance(said, str) for said in network.generate(latents, there))


@pytest.mark.parametrize("form", ["codes", "vocabulary", "latents"])
def test_a_repeated_sentence_stands_in_the_prompt_as_often(vectors, tokens, form):
    there, labels = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([0, 2])
    there[1, 3:] = False
    given = (tokens if form == "vocabulary" else vectors[tokens])[:2]
    network = build(Inputs(form, repeat=3), vectors)
    before, after = network.wording.around()
    log_likelihoods, total = network.score(given, there[:2]).log_likelihoods, 0.0
    for row, size in enumerate((5, 3)):  # by hand, without padding: Hugging Face's own forward pass
        sentence = network._tokens(given[row : row + 1, :size])
        words = [network._embedding()(torch.tensor([ids])) for ids in (before, after)]
        for label in range(3):
            answer = network.answers[label][network.answers[label] != -100]
            whole = [words[0], sentence, sentence, sentence, words[1], network._embedding()(answer[None])]
            logits = network.llm(inputs_embeds=torch.cat(whole, dim=1)).logits[0, -len(answer) - 1 : -1]
            truth = logits.log_softmax(-1).gather(1, answer[:, None]).sum()
            torch.testing.assert_close(log_likelihoods[row, label], truth, rtol=1e-4, atol=1e-4)
            total -= truth.item() * (label == int(labels[row]))
    sizes = network.trie.lengths[labels].sum()
    assert network.loss(given, there[:2], labels).item() == pytest.approx(total / sizes.item(), abs=1e-4)


@pytest.mark.parametrize("form", ["codes", "vocabulary", "latents"])
def test_a_shared_prefix_changes_neither_loss_nor_gradients(vectors, tokens, form):
    there, labels = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([2, 1, 0])
    there[1, 4] = False
    given = tokens if form == "vocabulary" else vectors[tokens]
    gradients = []
    for shared in (True, False):
        network = build(Inputs(form, layer=1 if form == "latents" else None), vectors, share_prefix=shared)
        network.llm.train()
        loss = network.loss(given, there, labels)
        loss.backward()
        gradients.append([loss, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 8
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_late_latents_enter_again_where_layers_are_computed_again(vectors, tokens):
    there, labels, gradients = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([2, 1, 0]), []
    for checkpointing in (False, True):
        tuning = Tuning(r=4, dropout=0.0, gradient_checkpointing=checkpointing)
        network = build(Inputs("latents", map=True, layer=2), tuning=tuning, share_prefix=False).train()
        network.loss(vectors[tokens], there, labels).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert any("layers.2.self_attn.q_proj.lora_B" in name for name in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_each_prompt_may_list_its_own_names(vectors, tokens):
    there, labels = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([2, 1, 0])
    network = build(Inputs("codes"), prompt=Prompt(UNSEEN, choices=2))
    listed = [(2, 0), (1, 2), (1, 0)]
    together = network.loss(vectors[tokens], there, labels, listed)
    alone = [network.loss(vectors[tokens[[row]]], there[[row]], labels[[row]], [listed[row]]) for row in range(3)]
    sizes = network.trie.lengths[labels]
    assert together.item() == pytest.approx(((torch.stack(alone) * sizes).sum() / sizes.sum()).item(), abs=1e-5)
    scores = network.score(vectors[tokens], there, listed).log_likelihoods
    for row in range(3):
        single = network.score(vectors[tokens[[row]]], there[[row]], [listed[row]]).log_likelihoods
        torch.testing.assert_close(scores[[row]], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "codes", "layer": 2}, "inputs.layer is for the form latents, got the form codes"),
        ({"form": "vocabulary", "map": True}, "inputs.map has no place before rows that learn themselves"),
        ({"repeat": 0}, "inputs.repeat is how often the sentence stands in the prompt, at least 1, got 0"),
        ({"form": "latents", "layer": 1, "repeat": 2}, "inputs.repeat is of sentences in the prompt"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Inputs(**given)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"inputs.layer must lie in 0 to 3 for this language model, got 9"):
        build(Inputs("latents", layer=9))
