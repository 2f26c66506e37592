import json
import math
import os
import shutil
import signal
from dataclasses import replace
from time import process_time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaAttention

from datamodules import SkeletonDataModule
from lightning_modules import LitLLMRecognizer
from skeleton_llm import ActionTokenizer, Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.language import Answers, Inputs, LanguageModel, Prompt, Tuning
from skeleton_llm.language.inputs import decoder_layer
from skeleton_llm.language.prompts import UNSEEN
from skeleton_llm.skeletons import find_layout
from skeleton_llm.skeletons.transforms import mirror
from small_runs import stage1_arguments, stage2_arguments


@pytest.fixture(scope="module")
def tokenizer(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "stage1"
    assert main(stage1_arguments(small_data, folder)) == 0
    return folder / "tokenizer"


def test_a_run_ends_with_a_recogniser_that_gives_the_test_accuracy_it_reported(small_data, tokenizer, tmp_path):
    folder = tmp_path / "stage2"
    before = ActionTokenizer.from_pretrained(tokenizer)
    assert main(stage2_arguments(small_data, folder, tokenizer)) == 0
    results = json.loads((folder / "results.json").read_text())
    wanted = {"top1", "top5", "top1_length_normalised", "greedy_exact_match", "greedy_invalid"}
    assert {f"test/{name}" for name in wanted} <= results.keys()
    recognizer = Recognizer.from_pretrained(folder / "recognizer")
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=recognizer.tokenizer.preprocess)
    batch = data.batches("test").__getitems__([(-1, i) for i in range(len(data.rows["test"]))])
    for name, tensor in before.state_dict().items():  # stage 2 leaves the tokenizer as it was
        assert recognizer.tokenizer.state_dict()[name].equal(tensor), name
    codes, mask = before.sentences(batch["joints"], batch["persons"])
    again, there = recognizer.tokenizer.sentences(batch["joints"], batch["persons"])
    assert again.equal(codes)
    assert there.equal(mask)
    probability = recognizer.probabilities(batch["joints"], batch["persons"])
    top1 = (probability.argmax(-1) == batch["labels"]).float().mean().item()
    assert top1 == pytest.approx(results["test/top1"], abs=1e-6)
    clip = data.data.clip(int(batch["index"][7]))
    assert recognizer.recognize(clip).name == data.class_names[int(probability[7].argmax())]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "test/confusion" in events.Tags()["images"] or "val/confusion" in events.Tags()["images"]


def test_the_search_answers_as_the_whole_posterior_does_and_fits_no_temperature(small_data, tokenizer, tmp_path):
    arguments = [*stage2_arguments(small_data, tmp_path, tokenizer), "--model.init_args.search", "true"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"test/top1", "test/top5", "test/mean_class_accuracy", "test/greedy_invalid", "test/ties"} == {
        name for name in results if "exact_match" not in name
    }
    recognizer = Recognizer.from_pretrained(tmp_path / "recognizer")
    assert recognizer.network.temperature == 1
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=recognizer.tokenizer.preprocess)
    batch = data.batches("test").__getitems__([(-1, i) for i in range(9)])
    found = {}
    torch.manual_seed(0)
    for name, weight in recognizer.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    for search in (False, True):
        model = LitLLMRecognizer(str(tokenizer), data.class_names, "ntu25", search=search, generate=False)
        model.network, model.log = recognizer.network, lambda *_, **__: None
        found[search] = model.test_step(batch, 0)["scores"]
    torch.testing.assert_close(*(scores.topk(5).values for scores in found.values()), rtol=1e-4, atol=1e-4)
    assert found[True].topk(5).indices.equal(found[False].topk(5).indices)
    assert len(found[True].topk(5).indices.unique(dim=0)) > 1
    assert found[True].isinf().sum(1).tolist() == [15] * 9


def test_names_that_the_precision_cannot_tell_apart_are_counted(small_data, tokenizer, monkeypatch):
    names = SkeletonDataModule(str(small_data), "synthetic_xsub").class_names
    model = LitLLMRecognizer(str(tokenizer), names, "ntu25", generate=False)
    model.configure_model()
    batch = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=model.tokenizer.preprocess)
    batch = batch.batches("test").__getitems__([(-1, i) for i in range(3)])
    scores = torch.full((3, len(names)), -9.0)
    scores[0, :2] = torch.tensor([-4.0, -4.01])  # a tie in bfloat16, whose steps there are 0.03
    scores[1, :2] = torch.tensor([-4.0, -4.0])
    scores[2, :2] = torch.tensor([-4.0, -5.0])
    answers = Answers(scores, scores)
    monkeypatch.setattr("lightning_modules.llm_recognizer.score_views", lambda *_: answers)
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    model.test_step(batch, 0)
    assert logged["test/ties"] == 1
    with torch.autocast("cpu", torch.bfloat16):
        model.test_step(batch, 0)
    assert logged["test/ties"] == 2


def test_checkpoints_hold_what_learns_and_resume_ends_with_the_same_adapter(
    small_data, tokenizer, tmp_path, monkeypatch, capsys
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(stage2_arguments(small_data, whole, tokenizer)) == 0
    step = LitLLMRecognizer.training_step

    def interrupted(self, batch, batch_idx):
        if batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(LitLLMRecognizer, "training_step", interrupted)
        with pytest.raises(SystemExit):
            main(stage2_arguments(small_data, stopped, tokenizer))
    path = newest_checkpoint(stopped / "checkpoints")
    checkpoint = torch.load(path, weights_only=True)
    kept = ("lora", "input_map", "temperature")
    assert all(any(part in name for part in kept) for name in checkpoint["state_dict"])
    assert checkpoint["optimizer_states"]
    assert path.stat().st_size < 1_000_000  # the base model alone has 5 MB
    assert main(stage2_arguments(small_data, stopped, tokenizer)) == 0
    signal.signal(signal.SIGTERM, before)
    for file in ("adapter/adapter_model.safetensors", "input_map.safetensors"):
        one, two = (load_file(folder / "recognizer" / file) for folder in (whole, stopped))
        assert one.keys() == two.keys()
        assert all(one[name].equal(two[name]) for name in one), file


def test_the_last_step_is_validated_saved_and_exported_whenever_the_run_is_stopped(small_data, tokenizer, tmp_path):
    arguments = stage2_arguments(small_data, tmp_path, tokenizer, "--trainer.max_steps", "3")
    assert main(arguments) == 0
    checkpoint = torch.load(newest_checkpoint(tmp_path / "checkpoints"), weights_only=True)
    assert checkpoint["global_step"] == 3  # though validations come every 2 steps and checkpoints every 200
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    fitted = events.Scalars("val/temperature")
    assert [one.step for one in fitted] == [1, 2]  # as Lightning counts, from 0
    product = tmp_path / "recognizer"
    temperature = json.loads((product / "llm.json").read_text())["temperature"]
    assert checkpoint["state_dict"]["network.temperature"].item() == pytest.approx(temperature)
    assert fitted[-1].value == pytest.approx(temperature, rel=1e-5)
    before, results = load_file(product / "adapter/adapter_model.safetensors"), (tmp_path / "results.json").read_text()
    shutil.rmtree(product)  # as if the machine had gone down before the end
    (tmp_path / "results.json").unlink()
    assert main(arguments) == 0
    after = load_file(product / "adapter/adapter_model.safetensors")
    assert all(after[name].equal(before[name]) for name in before)
    assert json.loads((product / "llm.json").read_text())["temperature"] == pytest.approx(temperature)
    assert json.loads((tmp_path / "results.json").read_text()) == pytest.approx(json.loads(results))


def test_a_fit_with_gradient_checkpointing_computes_each_layer_again(small_data, tokenizer, tmp_path, monkeypatch):
    passes, forward = [], LlamaAttention.forward

    def counted(self, *args, **kwargs):
        passes.append(torch.is_grad_enabled())  # validation has none
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    more = ["--trainer.max_steps", "2", "--model.init_args.tuning.gradient_checkpointing", "true"]
    assert main(stage2_arguments(small_data, tmp_path, tokenizer, *more)) == 0
    layers = LanguageModel().load().config.num_hidden_layers
    assert sum(passes) == 2 * layers * 2  # 2 steps


def test_another_base_model_cannot_go_on_from_a_checkpoint(small_data, tokenizer, tmp_path):
    names = SkeletonDataModule(str(small_data), "synthetic_xsub").class_names
    model = LitLLMRecognizer(str(tokenizer), names, "ntu25")
    model.configure_model()
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    untrained = LanguageModel(untrained=True)
    with pytest.raises(ValueError, match=r"was aligned with the words of another language model .*--allow-unaligned"):
        LitLLMRecognizer(str(tokenizer), names, "ntu25", llm=untrained)
    other = LitLLMRecognizer(str(tokenizer), names, "ntu25", llm=untrained, allow_unaligned=True)
    with pytest.raises(ValueError, match="written with another llm"):
        other.on_load_checkpoint(checkpoint)
    tuned = model.llm.load()
    tuned.model.layers[2].self_attn.v_proj.weight.data.addr_(torch.randn(64), torch.randn(128), alpha=0.01)
    tuned.save_pretrained(tmp_path)
    model.wording.text.save_pretrained(tmp_path)
    same_words = LitLLMRecognizer(str(tokenizer), names, "ntu25", llm=LanguageModel(str(tmp_path)))
    with pytest.raises(ValueError, match="written with another llm"):
        same_words.on_load_checkpoint(checkpoint)
    assert same_words.network is None  # it was not even loaded
    del checkpoint["state_dict"][next(name for name in checkpoint["state_dict"] if "lora" in name)]
    with pytest.raises(ValueError, match="the checkpoint lacks"):
        model.on_load_checkpoint(checkpoint)


def test_a_tokenizer_of_another_width_or_layout_is_refused_before_the_model_is_loaded(tokenizer, shared, monkeypatch):
    monkeypatch.setattr(LanguageModel, "load", lambda self: pytest.fail("the model was loaded"))
    small = LanguageModel(str(shared / "models" / "stories260K"))
    with pytest.raises(ValueError, match=r"its codes are 128 wide, the words of .* 64; run stage 1 with the same LLM="):
        LitLLMRecognizer(str(tokenizer), ["a", "b"], "ntu25", llm=small)
    with pytest.raises(ValueError, match="the tokenizer reads the layout ntu25, the data have kinect20"):
        LitLLMRecognizer(str(tokenizer), ["a", "b"], "kinect20")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": Prompt("What is [tokens]")}, r"prompt.text must go on behind \[tokens\]"),
        ({"class_names": ["sit", "wave", "sit"]}, r"'sit' \(class 0\) and 'sit' \(class 2\) have the same tokens"),
        ({"class_names": [f"lift box number {i}" for i in range(400)], "prompt": Prompt(UNSEEN)}, "more than the 1024"),
        (
            {"tuning": Tuning(targets=["c_attn"])},
            r"tuning.targets \['c_attn'\] name no layer of LlamaForCausalLM that takes an adapter: it has",
        ),
        ({"inputs": Inputs(repeat=99)}, r"an action sentence up to \d+, .* more than the 1024 .* inputs.repeat"),
        ({"inputs": Inputs("latents", layer=4)}, "inputs.layer must lie in 0 to 3 for this language model, got 4"),
        ({"tuning": Tuning(mode="frozen"), "inputs": Inputs()}, "set model.init_args.inputs.map to true"),
        (
            {"tuning": Tuning(mode="frozen"), "inputs": Inputs("vocabulary")},
            "set model.init_args.inputs.form to codes and model.init_args.inputs.map to true",
        ),
    ],
    ids=["prompt's end", "twins", "room", "targets", "repeated", "layer", "frozen codes", "frozen words"],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(tokenizer, monkeypatch, given, said):
    monkeypatch.setattr(LanguageModel, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=said):
        LitLLMRecognizer(str(tokenizer), **{"class_names": ["sit", "wave"], "layout": "ntu25"} | given)


def test_what_a_refusal_of_frozen_new_words_advises_works(tokenizer):
    LitLLMRecognizer(
        str(tokenizer), ["a", "b"], "ntu25", tuning=Tuning(mode="frozen"), inputs=Inputs("codes", map=True)
    )


def test_the_outline_of_a_13b_model_takes_a_moment_and_has_its_layers(tmp_path):
    sizes = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
    AutoConfig.for_model("llama", vocab_size=32000, **sizes).save_pretrained(tmp_path)
    state, begin = torch.get_rng_state(), process_time()
    outline = LanguageModel(str(tmp_path)).outline()
    assert process_time() - begin < 3
    assert state.equal(torch.get_rng_state())
    assert sum(parameter.numel() for parameter in outline.parameters()) > 13e9
    Tuning().check_targets(outline)
    decoder_layer(outline, 39)
    with pytest.raises(ValueError, match="0 to 39"):
        decoder_layer(outline, 40)


def test_a_run_needs_room_only_for_the_lists_that_it_shows(tokenizer, monkeypatch):
    names = [f"lift box number {i}" for i in range(400)]
    model = LitLLMRecognizer(str(tokenizer), names, "ntu25", unseen=[3, 5, 7])
    assert model.prompt.choices == 3
    monkeypatch.setattr(LanguageModel, "context", sum(map(len, model.wording.around([3, 5, 7]))) + 20)
    with pytest.raises(ValueError, match="or list fewer names in it"):
        LitLLMRecognizer(str(tokenizer), names, "ntu25", unseen=[3, 5, 7])


@pytest.mark.parametrize("views", [{"mirrored": True}, {"turns": [0.4]}, {"mirrored": True, "turns": [0.4, -0.8]}])
def test_views_are_averaged_in_the_test_and_in_the_product_alike(small_data, tokenizer, tmp_path, views):
    reader = ActionTokenizer.from_pretrained(tokenizer)
    reader.preprocess = replace(reader.preprocess, **views)
    names = SkeletonDataModule(str(small_data), "synthetic_xsub").class_names
    model = LitLLMRecognizer(str(tokenizer), names, "ntu25", tuning=Tuning(r=2))
    model.configure_model()
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=reader.preprocess)
    batch = data.batches("test").__getitems__([(-1, i) for i in range(5)])
    seen = [batch["joints"]]
    for angle in views.get("turns", []):
        cos, sin = math.cos(angle), math.sin(angle)
        seen.append(batch["joints"] @ torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]))
    if "mirrored" in views:
        seen += [mirror(joints, find_layout("ntu25")) for joints in seen]
    recognizer = Recognizer(reader, model.network)
    scores = [model.network.score(*reader.embed(joints, batch["persons"])).log_likelihoods for joints in seen]
    mean = torch.stack(scores).mean(0).softmax(-1)
    torch.testing.assert_close(recognizer.probabilities(batch["joints"], batch["persons"]), mean)
    if views == {"mirrored": True}:
        torch.testing.assert_close(recognizer.probabilities(seen[1], batch["persons"]), mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("choice", ["whole", pytest.param("sentences", marks=pytest.mark.slow)])
def test_sentences_of_several_lengths_go_through_both_stages(small_data, tmp_path, choice):
    more = {
        "whole": ["--data.init_args.preprocess.length", "whole", "--model.init_args.network.streams", "[joint, bone]"],
        "sentences": ["--model.init_args.network.persons", "sentences", "--model.init_args.network.codebook", "ema"],
    }[choice]
    assert main(stage1_arguments(small_data, tmp_path / "stage1", *more)) == 0
    folder = tmp_path / "stage1/tokenizer"
    assert main(stage2_arguments(small_data, tmp_path / "stage2", folder)) == 0
    recognizer = Recognizer.from_pretrained(tmp_path / "stage2/recognizer")
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess=recognizer.tokenizer.preprocess)
    batch = data.batches("test").__getitems__([(-1, i) for i in range(0, len(data.rows["test"]), 3)])
    given = batch["joints"], batch["persons"], batch.get("lengths")
    _, mask = recognizer.tokenizer.sentences(*given)
    assert len(mask.sum(1).unique()) > 1
    together = recognizer.probabilities(*given)
    for row in (0, 17, len(batch["labels"]) - 1):  # what stands beside a clip in its batch does not matter
        clip = data.data.clip(int(batch["index"][row]))
        alone = recognizer.probabilities(*recognizer.tokenizer.batch([clip]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-3, atol=1e-4)
        assert len(recognizer.recognize(clip).sentence) == mask[row].sum()


def test_a_rank_without_clips_has_no_answers_and_no_errors(small_data, tokenizer):
    data = SkeletonDataModule(str(small_data), "synthetic_xsub")
    module = LitLLMRecognizer(str(tokenizer), data.class_names, "ntu25")
    module.configure_model()
    module.trainer = SimpleNamespace(datamodule=data)
    logged = []
    module.log = lambda name, *args, **kwargs: logged.append(name)
    out = module.validation_step(data.batches("val").__getitems__([]), 0)
    assert len(out["scores"]) == 0
    assert "val/top1" in logged  # else the other ranks would wait for its sums
