import json
import re

import pytest
from transformers import LlamaConfig

from skeleton_llm.cli.main import main
from skeleton_llm.cli.plan import CARDS

FEW = ["--batch", "2", "--global-batch", "4", "--frames", "32"]


@pytest.fixture(scope="module")
def llama_13b(tmp_path_factory) -> str:
    """A folder with LLaMA 13B's configuration and nothing else."""
    folder = tmp_path_factory.mktemp("models") / "llama-13b"
    LlamaConfig(
        vocab_size=32000, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ).save_pretrained(folder)
    return str(folder)


def planned(capsys, *arguments: str) -> dict:
    main(["plan", *arguments, *FEW, "--json"])
    return json.loads(capsys.readouterr().out)


def test_plan_of_the_built_in_model_prints_every_row_and_what_to_set(capsys):
    assert main(["plan", "built-in", "--gpu", "24GB", *FEW]) == 0
    out = capsys.readouterr().out
    for part in ("weights", "activations", "reserve", "of 23.6: fits", "at 40% of 1 x 71 TFLOP/s"):
        assert part in out
    assert "largest micro-batch that fits: 4, batch_size 4, accumulate_grad_batches 1" in out


def test_llama_13b_from_its_configuration_alone(capsys, llama_13b):
    told = planned(capsys, llama_13b, "--gpu", "A100-40", "--gpus", "2", "--clips", "40000")
    assert told["fits"]
    assert told["strategy"] == "ddp"
    assert told["gib"]["weights"] == pytest.approx(2 * 13.016e9 / 2**30, rel=0.001)
    assert told["sum_gib"] == pytest.approx(sum(told["gib"].values()), abs=0.01)
    tokens = 9 + 8 + 12 + 7  # the prompt before the sentence is read once a batch
    read = tokens - 9 / 2
    assert told["tflop_per_clip"] == pytest.approx(4 * 12.69e9 * read / 1e12, rel=0.05)
    seconds = told["tflop_per_clip"] * 40000 / (2 * 0.4 * 312)
    assert told["hours_per_epoch"] == pytest.approx(seconds / 3600)
    assert told["keys"] == {"batch_size": 2, "accumulate_grad_batches": 1}


def test_what_does_not_fit_says_so_and_what_needs_less(capsys, llama_13b):
    assert main(["plan", llama_13b, "--gpu", "V100-32", "--mode", "full", *FEW]) == 1
    out = capsys.readouterr().out
    assert "of 31.7: does not fit" in out
    assert "largest micro-batch that fits: 0\n" in out
    assert "less memory: --gradient-checkpointing, a smaller --batch, --mode qlora, more or larger GPUs\n" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "shards"),
    [
        ("--gpu V100-16 --mode full", False),  # not in float16
        ("--gpu V100-16 --mode full --dtype float32", True),
        ("--gpu 24GB --mode int8", False),
        ("--gpu 24GB --mode full --optimizer adamw_8bit --gpus 4", False),
        ("--gpu 24GB --mode frozen --input-map", True),
    ],
)
def test_every_way_to_less_memory_that_is_named_can_be_asked_for(capsys, monkeypatch, asked, shards):
    for card in ("24GB", "V100-16"):
        monkeypatch.setitem(CARDS, card, CARDS[card]._replace(gib=1.0))  # nothing fits
    many = ["plan", "built-in", *asked.split(), *FEW]
    assert main([*many, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    ways = next(note for note in told["notes"] if "less memory: " in note).split("less memory: ")[1].split(", ")
    assert ways[-1] == "more or larger GPUs"
    assert any("--strategy" in way for way in ways) == shards
    for way in ways:
        if way.startswith(("--mode", "--strategy")):
            main([*many, *way.split()])
            assert not capsys.readouterr().err


def test_a_quantised_model_must_fit_each_gpu_before_it_is_sharded(capsys, tmp_path):
    LlamaConfig(
        vocab_size=32000, hidden_size=20480, intermediate_size=81920, num_hidden_layers=8, num_attention_heads=64
    ).save_pretrained(tmp_path)
    asked = ["plan", str(tmp_path), "--mode", "qlora", "--gpus", "4"]
    assert main([*asked, "--gpu", "24GB", "--strategy", "fsdp2", *FEW]) == 1
    out = capsys.readouterr().out
    whole, shared = (float(re.search(rf"{row} +([0-9.]+)", out)[1]) for row in ("while built", "sum"))
    assert shared < 23.6 < whole
    assert whole == pytest.approx(1 + (8 * 16 * 20480**2 * 0.5159 + 2 * 2 * 32000 * 20480) / 2**30, rel=0.02)
    assert f"{whole:.2f}  of 23.6: does not fit" in out
    assert ": fits" not in out
    assert "every GPU holds the whole quantised model" in out
    assert "largest micro-batch that fits: 0\n" in out
    assert planned(capsys, *asked[1:], "--gpu", "A100-80", "--strategy", "fsdp2")["fits"]


def test_a_v100_takes_float16_and_names_its_wheel(capsys):
    told = planned(capsys, "built-in", "--gpu", "V100-16", "--mode", "qlora")
    assert told["dtype"] == "float16"
    notes = " ".join(told["notes"])
    for part in ("https://download.pytorch.org/whl/cu126", "no flash attention", "bitsandbytes recommends"):
        assert part in notes
    assert main(["plan", "built-in", "--gpu", "V100-16", "--dtype", "bfloat16"]) == 1
    assert "V100-16 (compute capability 7.0) has no bfloat16 arithmetic; set it to float16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--mode", "int8", "--strategy", "fsdp2"],
            "tuning.mode int8 cannot be sharded: .*; take tuning.mode qlora",
        ),
        (
            ["--optimizer", "adamw_8bit", "--strategy", "fsdp2"],
            "adamw_8bit cannot update shards; set it to adamw, .* or take",
        ),
        (["--strategy", "single"], "--strategy single runs on one GPU, got --gpus 4; take ddp or fsdp2"),
        (["--strategy", "fsdp2", "--dtype", "float16"], "FSDP2 does not compute in 16-mixed"),
        (["--strategy", "fsdp1", "--input-map"], "inputs.map learns in float32 beside words in bfloat16"),
        (["--mode", "frozen"], "leaves nothing to learn; add --input-map"),
        (["--targets", "c_attn"], r"tuning.targets \['c_attn'\] name no layer of LlamaForCausalLM"),
    ],
)
def test_impossible_pairs_are_refused_with_the_nearest_possible_one(capsys, arguments, sentence):
    assert main(["plan", "built-in", "--gpu", "A100-80", "--gpus", "4", *arguments, *FEW]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(sentence, error), error


def test_missing_models_and_odd_numbers(capsys, tmp_path):
    assert main(["plan", "nobody/nothing", "--gpu", "H200"]) == 1
    assert "'nobody/nothing' is no folder here, and the Hugging Face hub gave no config.json" in capsys.readouterr().err
    assert main(["plan", str(tmp_path), "--gpu", "H200"]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "built-in", "--gpu", "H200", "--batch", "0"])
    assert "--batch must be at least 1, got 0" in capsys.readouterr().err


def test_an_epoch_is_all_clips_of_a_prepared_dataset(capsys, small_data):
    from skeleton_llm.skeletons import PreparedDataset

    told = planned(capsys, "built-in", "--gpu", "H200", "--data", str(small_data))
    assert told["clips"] == len(PreparedDataset.open(small_data))
