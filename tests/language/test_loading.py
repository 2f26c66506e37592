import fnmatch
import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lightning_modules import LitVQVAE
from skeleton_llm.cli.main import main
from skeleton_llm.language import LanguageModel, LLMRecognizer, Prompt, Tuning, Wording, loading
from skeleton_llm.language.inputs import decoder_layers
from skeleton_llm.language.tree_attention import refuse_window
from skeleton_llm.networks import VQVAEConfig
from tiny_llms import FAMILIES, write


def test_words_read_alone_are_the_models_own():
    llm = LanguageModel()
    model = llm.load()
    torch.testing.assert_close(llm.words(), model.get_input_embeddings().weight.float())
    assert llm.width == 128
    assert model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_width_words_and_special_tokens_of_every_family_come_from_the_model(tmp_path, family, tied):
    folder = write(tmp_path / family, family, tied=tied, shard="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    llm = LanguageModel(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert llm.words().equal(model.get_input_embeddings().weight)
    assert llm.width == model.get_input_embeddings().weight.shape[1] == 32
    text, config = llm.tokenizer(), llm.config()
    assert (text.bos_token_id, text.eos_token_id) == (config.bos_token_id, config.eos_token_id)
    assert text.pad_token_id is not None
    assert len(decoder_layers(llm.load())) == 2
    assert {p.dtype for p in LanguageModel(str(folder), dtype="bfloat16").load().parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_to_answer(tmp_path, family):
    llm = LanguageModel(str(write(tmp_path / family, family)))
    tuning = Tuning(r=4, dropout=0.0, targets=["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"])
    network = LLMRecognizer(tuning.apply(llm.load()), Wording(llm.tokenizer(), ["sit", "walk"], Prompt()))
    codes = torch.nn.functional.normalize(torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    given = codes, torch.ones(2, 5, dtype=torch.bool), torch.tensor([0, 1])
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(5):
        loss = network.loss(*given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert network.eval().score(*given[:2]).log_likelihoods.isfinite().all()


@pytest.mark.parametrize(
    ("family", "more", "context"),
    [
        ("mistral", {"sliding_window": 40}, 40),
        ("mistral", {"sliding_window": None}, 256),
        ("mistral", {"sliding_window": 4096}, 256),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}, 40),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 2}, 256),  # no layer has it
        ("qwen2", {"use_sliding_window": False, "sliding_window": 40}, 256),
        ("gpt2", {}, 256),
    ],
)
def test_the_context_ends_where_a_window_in_use_does(tmp_path, family, more, context):
    file = write(tmp_path, family) / "config.json"
    config = json.loads(file.read_text())
    config.pop("layer_types", None)
    file.write_text(json.dumps(config | more))
    llm = LanguageModel(str(tmp_path))
    assert llm.context == context
    wording, network = Wording(llm.tokenizer(), ["sit"], Prompt()), llm.load()
    size = context - sum(map(len, wording.around())) - wording.longest_answer
    wording.check_room(size, llm.context)
    refuse_window(network, context)  # and the scores find no less room
    with pytest.raises(ValueError, match=f"more than the {context} that"):
        wording.check_room(size + 1, llm.context)


def test_dtype_is_always_the_one_asked_for():
    assert LanguageModel(dtype="bfloat16").load().dtype == torch.bfloat16


def test_untrained_twin_has_the_shape_but_other_words_the_same_each_time():
    twin, again = LanguageModel(untrained=True), LanguageModel(untrained=True)
    assert twin.words().shape == LanguageModel().words().shape
    assert twin.fingerprint() == again.fingerprint() != LanguageModel().fingerprint()
    state = torch.get_rng_state()
    twin.load()
    assert state.equal(torch.get_rng_state())


def test_the_weights_fingerprint_is_of_every_weight_and_of_nothing_else(tmp_path):
    llm = LanguageModel(str(write(tmp_path / "one", "llama", tied=False)))
    parted = LanguageModel(str(write(tmp_path / "parted", "llama", tied=False, shard="200KB")), dtype="bfloat16")
    assert len(list((tmp_path / "parted").glob("*.safetensors"))) > 1
    assert llm.weights_fingerprint() == parted.weights_fingerprint()
    save_file({"lora": torch.ones(3)}, tmp_path / "one" / "adapter_model.safetensors")  # nobody loads it
    assert llm.weights_fingerprint() == parted.weights_fingerprint()
    file, found = tmp_path / "one" / "model.safetensors", {llm.weights_fingerprint()}
    weights = load_file(file)
    for name, tensor in weights.items():
        moved = tensor + 1e-3 * torch.randn(len(tensor), 1) * torch.randn(1, *tensor.shape[1:]).squeeze()  # rank one
        save_file(weights | {name: moved.reshape(tensor.shape) if tensor.ndim > 1 else tensor * 1.001}, file)
        found.add(llm.weights_fingerprint())
        assert "embed_tokens" in name or llm.fingerprint() == parted.fingerprint()
    assert len(found) == 1 + len(weights)


def test_the_untrained_twins_weights_are_its_own_and_the_same_each_time():
    twin = LanguageModel(untrained=True)
    assert twin.weights_fingerprint() == twin.weights_fingerprint() != LanguageModel().weights_fingerprint()


def test_weights_in_another_form_or_cut_off_are_told(tmp_path):
    llm, file = LanguageModel(str(write(tmp_path, "llama"))), tmp_path / "model.safetensors"
    weights = load_file(file)
    file.write_bytes(file.read_bytes()[:-100])
    for ask in (llm.fingerprint, llm.weights_fingerprint):
        with pytest.raises(ValueError, match=r"model.safetensors: damaged or cut off .*; fetch the model again"):
            ask()
    file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    for ask in (llm.fingerprint, llm.weights_fingerprint):
        with pytest.raises(FileNotFoundError, match=r"safetensors.* convert the model with transformers' save_pre"):
            ask()


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_real_folders(shared, name):
    folder = shared / "models" / name
    llm = LanguageModel(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(llm.words(), model.get_input_embeddings().weight)
    assert llm.tokenizer().pad_token is not None


def test_missing_models_are_named_with_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"llm\.name 'nobody/nothing' is no folder here and could not be had"):
        LanguageModel("nobody/nothing").path()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        LanguageModel(str(tmp_path)).path()
    with pytest.raises(ValueError, match=r"llm\.untrained draws new weights"):
        LanguageModel(untrained=True).load("nf4")


def test_evaluation_leaves_a_base_in_4_bits_as_it_was(monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)  # a CPU that repacks at the first look
    model = LanguageModel().load("nf4").eval()
    layer = model.model.layers[0].self_attn.q_proj
    weights, scales = layer.weight.detach().clone(), layer.weight.quant_state.absmax.clone()
    with torch.inference_mode():
        model(torch.arange(4)[None])
    assert layer.weight.equal(weights)
    assert layer.weight.quant_state.absmax.equal(scales)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one sharded model of a consolidated file too; returns the cache that fetching fills."""
    far, cache = write(tmp_path / "far", "llama", tied=False, shard="200KB"), tmp_path / "cache"
    (far / "consolidated.safetensors").write_bytes(b"the same weights once more")
    (far / "chat_template.jinja").write_text("<s>{{ messages[0]['content'] }} answer:")

    def fetch(name, *, revision, allow_patterns):
        if name != "somebody/model" or revision not in (None, "v1"):
            raise LocalEntryNotFoundError(f"nothing is known of {name} at {revision}")
        cache.mkdir(exist_ok=True)
        for file in far.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr("skeleton_llm.language.loading.snapshot_download", fetch)
    return cache


def weights_in(folder):
    return {path.name for path in folder.glob("*.safetensors")}


def test_stage_1_fetches_only_the_file_with_the_words(hub):
    llm = LanguageModel("somebody/model")
    assert llm.width == 32
    words = llm.words()
    index = json.loads((hub / "model.safetensors.index.json").read_text())["weight_map"]
    assert weights_in(hub) == {index["model.embed_tokens.weight"]}
    model = llm.load()
    assert weights_in(hub) == set(index.values())
    assert words.equal(model.get_input_embeddings().weight)


def test_the_chat_template_of_a_hub_model_comes_with_its_tokenizer(hub):
    wording = Wording(LanguageModel("somebody/model").tokenizer(), ["sit", "walk"], Prompt(wrapper="chat"))
    assert wording.text.decode(wording.around()[1]).endswith("corresponding action. answer:")


def test_download_prints_the_folder_and_what_to_set_where_it_is_used(hub, capsys):
    assert main(["download", "somebody/model", "--words"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(hub)
    assert "HF_HUB_OFFLINE=1" in printed.err
    assert len(weights_in(hub)) == 1
    assert main(["download", "somebody/model", "--revision", "v1"]) == 0
    assert "llm.revision v1" in capsys.readouterr().err
    assert len(weights_in(hub)) > 1
    assert "consolidated.safetensors" not in weights_in(hub)


def test_download_of_what_is_not_there_is_one_sentence_and_exit_code_1(hub, capsys):
    assert main(["download", "somebody/else"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: llm.name 'somebody/else' is no folder here and could not be had")
    assert "\n" not in error


def test_download_offline_is_refused_in_one_sentence(capsys):
    assert main(["download", "nobody/nothing"]) == 1  # the tests run under HF_HUB_OFFLINE=1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


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
    files = sorted(weights_in(sharded))
    assert opened == (files[1:2] if index else files[:2])  # without an index one after the other, until it is found
    assert module.vqvae.dim == words.shape[1]
    centred = words - words.mean(0)
    torch.testing.assert_close(module.word_mmd.words, centred / centred.square().sum(-1).mean().sqrt())
    with pytest.raises(AssertionError, match="the model was built"):
        LanguageModel(str(sharded)).load()
