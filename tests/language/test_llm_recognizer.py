import json

import pytest
import torch
from transformers import GenerationConfig

import tiny_llms
from skeleton_llm.language import (
    Inputs,
    LanguageModel,
    LLMRecognizer,
    Prompt,
    Tuning,
    Wording,
    load_network,
    save_network,
)

NAMES = ["sit", "sit down", "wave the right hand"]


def build(tuning: Tuning, *, input_map: bool = True, prompt: Prompt | None = None, **options) -> LLMRecognizer:
    llm = LanguageModel()
    torch.manual_seed(0)
    wording = Wording(llm.tokenizer(), NAMES, prompt or Prompt())
    network = LLMRecognizer(tuning.apply(llm.load()), wording, Inputs(map=input_map), **options)
    return network.eval()


@pytest.fixture
def codes():
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(3, 6, 128, generator=generator), dim=-1)


def all_of(codes):
    return torch.ones(codes.shape[:2], dtype=torch.bool)


def test_loss_is_the_mean_negative_log_likelihood_of_the_answers_tokens(codes):
    network = build(Tuning(mode="frozen"))
    labels = torch.tensor([0, 2, 1])
    scores = network.score(codes, all_of(codes))
    chosen = scores.log_likelihoods[range(3), labels].sum() / network.trie.lengths[labels].sum()
    assert network.loss(codes, all_of(codes), labels).item() == pytest.approx(-chosen.item(), abs=1e-4)
    normalised = scores.log_likelihoods / network.trie.lengths
    torch.testing.assert_close(scores.normalised, normalised)


@pytest.mark.parametrize(
    "prompt", [Prompt(), Prompt("Look: [tokens]."), Prompt("Look: [tokens]", wrapper="alpaca")], ids=lambda p: p.text
)
def test_sentences_of_several_lengths_are_trained_and_answered_alike(codes, prompt):
    network = build(Tuning(mode="frozen"), prompt=prompt)
    mask, labels = all_of(codes), torch.tensor([0, 2, 1])
    mask[0, 2:] = mask[2, 5:] = False
    scores = network.score(codes, mask).log_likelihoods
    chosen = scores[range(3), labels].sum() / network.trie.lengths[labels].sum()
    assert network.loss(codes, mask, labels).item() == pytest.approx(-chosen.item(), abs=1e-4)
    alone = [network.generate(codes[[row], : mask[row].sum()], mask[[row], : mask[row].sum()])[0] for row in range(3)]
    assert network.generate(codes, mask) == alone


def test_loss_equals_hugging_faces_own_with_the_prompt_masked(codes):
    network = build(Tuning(mode="frozen"), input_map=False)
    prompt, _ = network.prompt(codes, all_of(codes))
    answer = network.answers[[1]]
    answer = answer[:, (answer != -100)[0]]
    embeddings = torch.cat([prompt[:1], network._embedding()(answer)], dim=1)
    labels = torch.cat([torch.full((1, prompt.shape[1]), -100), answer], dim=1)
    truth = network.llm(inputs_embeds=embeddings, labels=labels).loss
    ours = network.loss(codes[:1], all_of(codes)[:1], torch.tensor([1]))
    assert ours.item() == pytest.approx(truth.item(), abs=1e-4)


def test_masked_codes_change_nothing(codes):
    network = build(Tuning(mode="frozen"))
    mask = all_of(codes)
    mask[:, 4:] = False
    other = codes.clone()
    other[:, 4:] = 9.0
    torch.testing.assert_close(
        network.score(codes, mask).log_likelihoods, network.score(other, mask).log_likelihoods, rtol=1e-4, atol=1e-4
    )


def test_codes_enter_with_the_words_norm_and_a_fresh_map_is_the_identity(codes):
    with_map, without = build(Tuning(mode="frozen")), build(Tuning(mode="frozen"), input_map=False)
    first, second = (network.prompt(codes, all_of(codes))[0] for network in (with_map, without))
    torch.testing.assert_close(first, second)
    begin = len(without.wording.around()[0])
    words = LanguageModel().words()
    expected = words.square().sum(-1).mean().sqrt()
    torch.testing.assert_close(second[:, begin : begin + 6].norm(dim=-1), expected.expand(3, 6), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tuning", [Tuning(r=4), Tuning(mode="full"), Tuning(mode="frozen")], ids=lambda t: t.mode)
def test_a_saved_recogniser_gives_the_same_scores_back(tuning, codes, tmp_path):
    network = build(tuning)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    save_network(network, tmp_path, LanguageModel(), tuning, Prompt())
    again = load_network(tmp_path)
    torch.testing.assert_close(
        again.score(codes, all_of(codes)).log_likelihoods, network.score(codes, all_of(codes)).log_likelihoods
    )
    assert again.generate(codes, all_of(codes)) == network.generate(codes, all_of(codes))


def test_another_base_model_is_refused(tmp_path):
    tuning = Tuning(r=2)
    save_network(build(tuning), tmp_path, LanguageModel(), tuning, Prompt())
    settings = tmp_path / "llm.json"
    settings.write_text(settings.read_text().replace('"untrained": false', '"untrained": true'))
    with pytest.raises(ValueError, match="was tuned on another language model than built-in"):
        load_network(tmp_path)


def test_damaged_folders_are_named(tmp_path):
    tuning = Tuning(r=2)
    save_network(build(tuning), tmp_path, LanguageModel(), tuning, Prompt())
    for name in ("input_map.safetensors", "adapter/adapter_model.safetensors", "llm.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:60])
        with pytest.raises(ValueError, match="a damaged recogniser"):
            load_network(tmp_path)
        (tmp_path / name).write_bytes(whole)
    config = json.loads(whole)
    (tmp_path / "llm.json").write_text(json.dumps({key: config[key] for key in config if key != "llm_weights"}))
    with pytest.raises(ValueError, match=r"a damaged recogniser \('llm_weights'\)"):
        load_network(tmp_path)


def test_lora_trains_q_and_v_and_nothing_else_of_the_model():
    network = build(Tuning(r=4), input_map=False)
    learns = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert len(learns) == 4 * 2 * 2
    assert all("lora" in name and ("q_proj" in name or "v_proj" in name) for name in learns)
    # paper's rank: r (d_in + d_out) for q and v of each of the 4 layers
    big = build(Tuning(), input_map=False)
    assert sum(p.numel() for p in big.parameters() if p.requires_grad) == 4 * 64 * ((128 + 128) + (128 + 64))


def test_learning_a_few_clips_by_heart_also_frees_the_greedy_answer(codes):
    network = build(Tuning(r=8)).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    labels = torch.tensor([0, 1, 2])
    for _ in range(60):
        optimizer.zero_grad()
        network.loss(codes, all_of(codes), labels).backward()
        optimizer.step()
    network.eval()
    assert network.score(codes, all_of(codes)).log_likelihoods.argmax(-1).equal(labels)
    assert network.generate(codes, all_of(codes)) == NAMES


@pytest.mark.parametrize("tuning", [Tuning(r=4), Tuning(mode="full")], ids=lambda t: t.mode)
def test_free_answers_are_greedy_whatever_the_model_comes_with(codes, tmp_path, tuning):
    folder = tiny_llms.write(tmp_path, "llama")
    own = {"repetition_penalty": 1.3, "do_sample": True, "temperature": 5.0, "top_k": 3, "suppress_tokens": [7, 11]}
    own |= {"min_new_tokens": 9, "no_repeat_ngram_size": 2, "eos_token_id": [5, 6]}
    GenerationConfig(**own).save_pretrained(folder)
    llm = LanguageModel(str(folder))
    torch.manual_seed(0)
    network = LLMRecognizer(tuning.apply(llm.load()), Wording(llm.tokenizer(), NAMES, Prompt())).eval()
    with torch.no_grad():
        network._embedding().weight.mul_(6)  # decided answers, which often say a word twice
    prompt, there = network.prompt(codes[..., :32], all_of(codes))
    truth = []
    for row in prompt:
        given, said = row[None], []
        while len(said) < network.wording.longest_answer and network.wording.end not in said:
            said.append(int(network.llm(inputs_embeds=given).logits[0, -1].argmax()))
            given = torch.cat([given, network._embedding()(torch.tensor([said[-1:]]))], dim=1)
        truth.append(said)
    assert any(len(set(said)) < len(said) for said in truth)  # a penalty would tell
    decoded = network.wording.text.batch_decode(truth, skip_special_tokens=True)
    assert network.generate(codes[..., :32], there[:, : codes.shape[1]]) == [said.strip() for said in decoded]
    assert {key: getattr(network.llm.generation_config, key) for key in own} == own  # and is exported with it


def test_names_that_a_tokenizer_does_not_give_back_are_refused():
    llm = LanguageModel()
    text = llm.tokenizer()
    original = text.decode
    text.decode = lambda ids, **options: original(ids, **options).replace("hand", "ham")  # a lossy tokenizer
    with pytest.raises(ValueError, match="does not give back the class name 'wave the right hand'"):
        Wording(text, NAMES, Prompt())


def test_tuning_errors_name_the_key_and_the_choices():
    model = LanguageModel().load()
    with pytest.raises(ValueError, match=r"tuning\.targets \['c_attn'\] name no layer .*q_proj"):
        Tuning(targets=["c_attn"]).apply(model)


@pytest.mark.parametrize("candidates", [None, (2, 0)])
@pytest.mark.parametrize("inputs", [Inputs(map=True), Inputs("latents", layer=2)], ids=["codes", "late"])
def test_the_search_finds_what_the_scores_rank_highest(codes, inputs, candidates):
    network = build(Tuning(mode="frozen"))
    network = LLMRecognizer(network.llm, network.wording, inputs).eval()
    mask = all_of(codes)
    mask[1, 3:] = False
    for shared in (True, False):
        network.share_prefix = shared
        truth = network.score(codes, mask, None, candidates).log_likelihoods.topk(2)
        found = network.best(codes, mask, 2, None, candidates)
        assert found.classes.equal(truth.indices)
        torch.testing.assert_close(found.log_likelihoods, truth.values, rtol=1e-4, atol=1e-4)
    assert network.best(codes[:0], mask[:0], 2).classes.shape == (0, 2)
