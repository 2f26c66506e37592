import pytest
import torch
from transformers import AutoModelForCausalLM

from skeleton_llm.language import LanguageModel, Tuning


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
