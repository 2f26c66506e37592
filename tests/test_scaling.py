import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.growth import GPUS, Growth, stated, tables
from benchmarks.scaling import PAPER, WIDTH, payloads
from skeleton_llm.language import Tuning
from skeleton_llm.networks import VQVAE

PAGE = (Path(__file__).parents[1] / "docs/scaling.md").read_text()


def test_the_page_holds_what_its_own_numbers_come_to():
    assert f"\n{tables(PAGE)}\n" in PAGE
    assert PAGE.count("### ") == tables(PAGE).count("### ")


def test_sizes_on_the_page_are_those_of_the_models():
    found = stated(PAGE)
    with torch.device("meta"):
        vqvae = VQVAE(PAPER, layout="ntu25", num_persons=2, dim=WIDTH)
        sizes = {"hidden_size": WIDTH, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
        llm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=32000, **sizes))
    assert found["stage 1: weights that learn"] == sum(p.numel() for p in vqvae.parameters())
    assert found["stage 1: bytes all-reduced a step"] == 4 * found["stage 1: weights that learn"]
    assert found["LLaMA 13B: weights"] == sum(p.numel() for p in llm.parameters())
    tuned = Tuning(r=64).apply(llm)
    learns = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert found["LoRA r 64 on q and v: weights that learn"] == learns
    assert found["stage 1: FLOP of the exact MMD"] == 4 * PAPER.num_codes * 32000 * WIDTH
    assert found["stage 1: clips of the recipe"] == 300_000 * found["clips a step"]
    assert found["stage 2: clips of the recipe"] == 1172 * found["clips a step"]
    assert found["GPU hours to a failure"] == round(16384 * 54 * 24 / 419)


@pytest.mark.parametrize("n", GPUS)
def test_the_interval_on_the_page_is_the_one_that_loses_least(n):
    growth = Growth(stated(PAGE), n)
    for seconds in (growth.lora(), growth.full()):
        best, between = growth.interval(seconds), growth.between_failures()
        at = [seconds / every + every / 2 / between for every in (0.9 * best, best, 1.1 * best)]
        assert at[1] == pytest.approx(growth.lost(seconds))
        assert at[1] < min(at[0], at[2])
        assert at[1] == pytest.approx(math.sqrt(2 * seconds / between))


def test_a_ring_over_every_gpu_is_as_fast_as_its_narrowest_link():
    numbers = stated(PAGE)
    eight, nine = Growth(numbers, 8), Growth(numbers, 9)
    assert eight.all_reduce(8e9) == pytest.approx(2 * 7e9 / 300e9)
    assert nine.all_reduce(9e9) == pytest.approx(2 * 8e9 / 25e9)
    assert (eight.nodes, nine.nodes) == (1, 2)


def test_bytes_of_collectives_are_counted_by_kind():
    def event(at, name, *given):
        dims, types = [list(shape) for shape, _ in given], [kind for _, kind in given]
        return {"ts": at, "name": name, "args": {"Input Dims": dims, "Input type": types}}

    events = [
        event(4, "gloo:all_reduce", ((7,), "float")),
        event(1, "c10d::allgather_"),
        event(2, "gloo:all_gather", ((10, 3), "float"), ((2,), "long int")),
        event(3, "c10d::allreduce_"),
        event(5, "c10d::_reduce_scatter_base_"),
        event(6, "gloo:all_reduce", ((8,), "float")),
        event(7, "aten::mm", ((100, 100), "float")),
    ]
    assert payloads(events) == {"all_gather": 136, "all_reduce": 28, "reduce_scatter": 32}
