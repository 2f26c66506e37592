"""What a recogniser's folder gives back, against Hugging Face's and PEFT's own loading."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_llms
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
from skeleton_llm.language.saving import merge_network, move_base

NAMES = ["sit", "sit down", "wave the right hand"]
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [0, 0, 7, 8, 9]])
THERE = torch.ones_like(TOKENS, dtype=torch.bool)


def tuned(llm, tuning, inputs=None):
    """A recogniser whose every trainable weight was moved a little."""
    text, base, actions = llm.tokenizer(), llm.load(tuning.quantization), range(0)
    inputs = inputs or Inputs(map=True)
    torch.manual_seed(0)
    if inputs.form == "vocabulary":
        actions = add_action_words(base, text, 10, F.normalize(torch.randn(10, llm.width), dim=-1))
    network = LLMRecognizer(tuning.apply(base, actions), Wording(text, NAMES, Prompt()), inputs, actions=actions).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def scores(network):
    codes = F.normalize(torch.randn(10, network.llm.config.hidden_size, generator=torch.Generator().manual_seed(1)))
    return network.score(TOKENS if network.inputs.form == "vocabulary" else codes[TOKENS], THERE).log_likelihoods


def write(folder, family="llama", tuning=None, inputs=None, *, tied=True):
    """A recogniser on a random language model; its folder, its base's and itself."""
    llm = LanguageModel(str(tiny_llms.write(folder / "base", family, tied=tied)))
    tuning = tuning or Tuning(r=4)
    network = tuned(llm, tuning, inputs)
    save_network(network, folder / "recognizer", llm, tuning, Prompt())
    return folder / "recognizer", folder / "base", network


@pytest.mark.parametrize(
    ("family", "tied", "tuning", "inputs"),
    [
        ("llama", False, Tuning(r=4), Inputs(map=True)),
        ("llama", True, Tuning(r=4), Inputs("vocabulary")),
        ("llama", False, Tuning(r=4), Inputs("vocabulary")),
        ("gpt2", True, Tuning(r=4, targets=["c_attn"]), Inputs()),
        ("qwen3", True, Tuning(r=4, targets=["all-linear"], dora=True), Inputs()),
        ("llama", True, Tuning(mode="full"), Inputs()),
        ("llama", True, Tuning(mode="frozen"), Inputs(map=True)),
    ],
    ids=["lora", "new words, tied", "new words, untied", "gpt2", "dora", "full", "frozen"],
)
def test_a_merged_folder_needs_no_other_base_and_answers_alike(tmp_path, family, tied, tuning, inputs):
    folder, base, network = write(tmp_path, family, tuning, inputs, tied=tied)
    before = scores(load_network(folder))
    torch.testing.assert_close(before, scores(network), rtol=0, atol=1e-5)
    merge_network(folder)
    base.rename(tmp_path / "gone")
    merged = load_network(folder)
    assert not isinstance(merged.llm, PeftModel)
    torch.testing.assert_close(scores(merged), before, rtol=0, atol=1e-4)
    plain, text = AutoModelForCausalLM.from_pretrained(folder / "llm"), AutoTokenizer.from_pretrained(folder / "llm")
    prompt = torch.tensor([text("sit down")["input_ids"]])
    torch.testing.assert_close(plain(prompt).logits, merged.llm(prompt).logits)
    assert {file.name for file in folder.iterdir()} >= {"llm", "llm.json"}
    assert not (folder / "adapter").exists()
    assert not (folder / "llm.safetensors").exists()
    with pytest.raises(ValueError, match="is merged already"):
        merge_network(folder)
    with pytest.raises(ValueError, match="brings its language model; leave --llm elsewhere away"):
        load_network(folder, "elsewhere")


@pytest.mark.parametrize("mode", ["qlora", "int8"])
def test_adapters_of_a_quantised_base_are_merged_into_the_whole_one(tmp_path, mode):
    folder, base, _ = write(tmp_path, tuning=Tuning(mode=mode, r=4))
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    prompt = torch.arange(3, 12)[None]
    expected = whole(prompt).logits
    merge_network(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder / "llm")
    assert all(parameter.dtype == torch.float32 for parameter in plain.parameters())
    torch.testing.assert_close(plain(prompt).logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(load_network(folder).llm(prompt).logits, expected, rtol=0, atol=1e-4)


def test_peft_loads_the_adapter_by_itself(tmp_path):
    folder, base, network = write(tmp_path, "mistral")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    prompt = torch.arange(3, 12)[None]
    torch.testing.assert_close(loaded(prompt).logits, network.llm(prompt).logits)
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    assert {file.name for file in (folder / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip


def test_every_process_writes_the_same_adapter_config(tmp_path):
    targets = ["up_proj", "v_proj", "down_proj", "q_proj", "gate_proj", "k_proj"]
    folder, *_ = write(tmp_path, tuning=Tuning(r=2, targets=targets))
    written = json.loads((folder / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert written == sorted(targets)  # a set's order is another one in each process


def test_a_base_that_moved_is_asked_for_and_another_one_refused(tmp_path, monkeypatch):
    folder, base, network = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = json.loads((folder / "llm.json").read_text())
    assert (config["llm_origin"], config["llm"]["name"]) == ("folder", str(base))
    base.rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"was the folder .*base, which is not here; say where it is with --llm"
    ):
        load_network(folder)
    torch.testing.assert_close(scores(load_network(folder, "moved")), scores(network))
    move_base(folder, "moved")
    assert json.loads((folder / "llm.json").read_text())["llm"]["name"] == str(tmp_path / "moved")
    torch.testing.assert_close(scores(load_network(folder)), scores(network))
    other = tiny_llms.write(tmp_path / "other", "qwen2")
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "load", lambda *_: pytest.fail("loaded before the check"))
        with pytest.raises(ValueError, match=r"was tuned on another language model than .*other; name the right one"):
            load_network(folder, str(other))


@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_what_was_merged_from_an_adapter_is_no_base_for_it(tmp_path, monkeypatch, mode):
    folder, base, _ = write(tmp_path, tuning=Tuning(mode=mode, r=4), tied=False)
    shutil.copytree(folder, tmp_path / "merged")
    merge_network(tmp_path / "merged")
    merged = str(tmp_path / "merged" / "llm")
    assert LanguageModel(merged).fingerprint() == LanguageModel(str(base)).fingerprint()  # the words did not learn
    monkeypatch.setattr(LanguageModel, "load", lambda *_: pytest.fail("loaded before the check"))
    for take in (load_network, move_base):
        with pytest.raises(ValueError, match=r"was tuned on another language model than .*merged/llm; name the right"):
            take(folder, merged)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_full_weights_that_lack_some_are_refused_and_tied_ones_lack_none(tmp_path, tied):
    folder, _, network = write(tmp_path, tuning=Tuning(mode="full"), tied=tied)
    file = folder / "llm.safetensors"
    weights = load_file(file)
    assert ("lm_head.weight" in weights) != tied
    torch.testing.assert_close(scores(load_network(folder)), scores(network))
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        del weights[name]
    save_file(weights, file)
    lacks = r"llm.safetensors lacks model.layers.1.mlp.up_proj.weight and 1 more\); export it again"
    with pytest.raises(ValueError, match=lacks):
        load_network(folder)


def test_a_missing_adapter_and_a_run_in_the_place_of_its_folder(tmp_path):
    folder, _, _ = write(tmp_path)
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors is missing; export the recogniser again"):
        load_network(folder)
    with pytest.raises(FileNotFoundError, match=r"llm.json is missing.*; name .*recognizer"):
        load_network(tmp_path)
    with pytest.raises(FileNotFoundError, match='run "make stage2"'):
        load_network(tmp_path / "none")
