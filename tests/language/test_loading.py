import fnmatch
import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lightning_modules import LitVQVAE
from skeleton_llm.language import LanguageModel, Tuning, loading
from skeleton_llm.networks import VQVAEConfig


def test_words_read_alone_are_the_models_own():
    llm = LanguageModel()
    model = llm.load()
    torch.testing.assert_close(llm.words(), model.get_input_embeddings().weight.float())
    assert llm.width == 128
    assert model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_dtype_is_always_the_one_asked_for():
    assert LanguageModel(dtype="bfloat16").load().dtype == torch.bfloat16


def test_untrained_twin_has_the_shape_but_other_words_the_same_each_time():
    twin, again = LanguageModel(untrained=True), LanguageModel(untrained=True)
    assert twin.words().shape == LanguageModel().words().shape
    assert twin.fingerprint() == again.fingerprint() != LanguageModel().fingerprint()
    state = torch.get_rng_state()
    twin.load()
    assert state.equal(torch.get_rng_state())


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_real_folders(shared, name):
    folder = shared / "models" / name
    llm = LanguageModel(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(llm.words(), model.get_input_embeddings().weight)
    assert llm.tokenizer().pad_token is not None


def test_quantised_weights_load_on_this_machine():
    model = LanguageModel(quantization="nf4").load()
    assert model.is_quantized
    with pytest.raises(ValueError, match=r"tuning\.mode full cannot train quantised weights"):
        Tuning(mode="full").apply(model)


def test_missing_models_are_named_with_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"llm\.name 'nobody/nothing' is no folder here and could not be had"):
        LanguageModel("nobody/nothing").path()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        LanguageModel(str(tmp_path)).path()
    with pytest.raises(ValueError, match=r"llm\.untrained draws new weights"):
        LanguageModel(untrained=True, quantization="nf4")


@pytest.fixture
def sharded(tmp_path):
    """The built-in model in three files; the second holds the word embeddings, as the index says."""
    folder = tmp_path / "sharded"
    shutil.copytree(loading.BUILT_IN, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)]
    table = next(name for name in weights if name.endswith("embed_tokens.weight"))
    rest = [name for name in weights if name != table]
    where = dict.fromkeys(rest[::2], names[0]) | {table: names[1]} | dict.fromkeys(rest[1::2], names[2])
    for file in names:
        save_file({name: weights[name] for name in where if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def weights_of(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("index", [True, False])
def test_stage_1_reads_words_from_their_shard_and_never_loads_the_model(sharded, monkeypatch, index):
    words, opened, safe_open = LanguageModel().words(), [], loading.safe_open
    if not index:
        (sharded / "model.safetensors.index.json").unlink()

    def noted(file, **options):
        opened.append(file.name)
        return safe_open(file, **options)

    def refused(*args, **options):
        raise AssertionError("the model was built")

    monkeypatch.setattr(loading, "safe_open", noted)
    for way in ("from_pretrained", "from_config"):
        monkeypatch.setattr(AutoModelForCausalLM, way, refused)
    module = LitVQVAE("ntu25", 1, llm=LanguageModel(str(sharded)), network=VQVAEConfig(width=8, depth=1, num_codes=8))
    files = weights_of(sharded)
    assert opened == (files[1:2] if index else files[:2])  # without an index one after the other, until it is found
    assert module.vqvae.dim == words.shape[1]
    centred = words - words.mean(0)
    torch.testing.assert_close(module.word_mmd.words, centred / centred.square().sum(-1).mean().sqrt())
    with pytest.raises(AssertionError, match="the model was built"):
        LanguageModel(str(sharded)).load()


def test_a_hub_model_gives_its_words_width_and_tokenizer_for_one_of_its_shards(sharded, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def fetch(name, *, revision, allow_patterns):
        if (name, revision) != ("somebody/model", None):
            raise LocalEntryNotFoundError(f"nothing is known of {name} at {revision}")
        cache.mkdir(exist_ok=True)
        for file in sharded.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(loading, "snapshot_download", fetch)
    llm, built_in = LanguageModel("somebody/model"), LanguageModel()
    assert llm.width == built_in.width
    assert llm.words().equal(built_in.words())
    assert llm.fingerprint() == built_in.fingerprint()
    assert llm.tokenizer().vocab_size == built_in.tokenizer().vocab_size
    assert weights_of(cache) == weights_of(sharded)[1:2]
    llm.load()  # stage 2 wants them all
    assert weights_of(cache) == weights_of(sharded)
