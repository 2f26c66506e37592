"""The forecast against what PyTorch's allocator reports of the real step, and against arithmetic."""

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from skeleton_llm.language import LanguageModel, LLMRecognizer, Prompt, Tuning
from skeleton_llm.language.inputs import Inputs
from skeleton_llm.language.memory import Rehearsal, Setup, Step
from skeleton_llm.language.wording import Wording

NAMES = ["drink water", "put on a hat and glasses", "sit down"]


def llama(width: int = 128, layers: int = 3, **more: int) -> LlamaConfig:
    shape = {
        "vocab_size": 4096, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3, **{**shape, **more})


def gpt2(width: int = 128) -> GPT2Config:
    return GPT2Config(vocab_size=4096, n_embd=width, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)


class Run:
    """A real training step on the CPU."""

    def __init__(self, config, tuning, setup, batch, tokens, folder=None):
        torch.manual_seed(0)
        self.dtype = getattr(torch, setup.dtype)
        self.context = partial(torch.autocast, "cpu", self.dtype) if setup.mixed else nullcontext
        if tuning.quantization == "none":
            llm = AutoModelForCausalLM.from_config(config, dtype=self.dtype, attn_implementation=setup.attention)
        else:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            llm = LanguageModel(str(folder), dtype=setup.dtype, attention=setup.attention).load(tuning.quantization)
        llm.requires_grad_(requires_grad=False)
        wording = Wording(LanguageModel().tokenizer(), NAMES, Prompt())
        self.network = LLMRecognizer(tuning.apply(llm), wording, Inputs(map=setup.input_map)).train()
        self.optimizer = torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], lr=1e-3)
        before, after = wording.around()
        self.step = Step(batch, tokens, len(before), len(after), wording.answers.shape[1])
        width = self.network.llm.get_input_embeddings().embedding_dim
        mask = torch.ones(batch, tokens, dtype=torch.bool)
        self.batch = (
            torch.randn(batch, tokens, width),
            mask,
            torch.arange(1, batch + 1) % 3,
        )  # the longest name is there, and shorter ones

    def learn(self):
        with self.context():
            loss = self.network.loss(*self.batch)
        loss.backward()
        self.optimizer.step()

    def held(self):
        states = [t for state in self.optimizer.state.values() for t in state.values()]
        parameters = list(self.network.parameters())
        grads = [p.grad for p in parameters if p.grad is not None]
        packed = [p.quant_state for p in parameters if hasattr(p, "quant_state")]
        scales = [t for state in packed for t in (state.absmax, state.state2.absmax)]
        tensors = [*parameters, *self.network.buffers(), *grads, *states, *scales]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    def peak(self):
        """What the allocator handed out and took back during a step, on top of what was there."""
        self.learn()
        there = self.held()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            self.learn()
        events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return there + max(accumulate(event.nbytes() for event in events))


LORA, CPU = Tuning(r=16), Setup(device="cpu")
FUSED = Tuning(r=16, targets=["c_attn"])
EVERY = Tuning(r=16, targets=["all-linear"], gradient_checkpointing=True)
MIXED = Setup(device="cpu", dtype="bfloat16", mixed=True)
EAGER, MAP = Setup(device="cpu", attention="eager"), Setup(device="cpu", input_map=True)


@pytest.mark.parametrize(
    ("config", "tuning", "setup", "batch", "tokens"),
    [
        (llama(), LORA, CPU, 8, 30),
        (llama(), Tuning(mode="full"), CPU, 4, 20),
        (llama(256, 4), EVERY, CPU, 16, 60),
        (llama(), LORA, MIXED, 8, 30),
        *(
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in [
                (llama(512, 4), LORA, CPU, 32, 20),
                (llama(256, 6), LORA, CPU, 4, 100),
                (llama(256), LORA, EAGER, 16, 80),
                (llama(256), Tuning(mode="full"), CPU, 32, 60),
                (llama(512, 6), Tuning(mode="full", gradient_checkpointing=True), CPU, 4, 40),
                (llama(256), Tuning(mode="frozen"), MAP, 8, 40),
                (llama(512), Tuning(mode="qlora", r=16), CPU, 8, 60),
                (llama(256), Tuning(mode="qlora", r=16, gradient_checkpointing=True), MAP, 32, 40),
                (llama(256), Tuning(mode="int8", r=16), CPU, 8, 60),
                (gpt2(), FUSED, CPU, 16, 60),
                (gpt2(256), Tuning(mode="full"), EAGER, 8, 40),
                (llama(256), LORA, MIXED, 8, 40),
                (llama(256), Tuning(mode="full"), MIXED, 8, 40),
                (llama(256, 4), EVERY, MIXED, 4, 40),
                (llama(256), Tuning(mode="qlora", r=16), MIXED, 8, 60),
                (gpt2(), FUSED, MIXED, 16, 60),
            ]
        ),
    ],
)
def test_forecast_is_within_a_tenth_of_the_measured_peak(config, tuning, setup, batch, tokens, tmp_path):
    run = Run(config, tuning, setup, batch, tokens, tmp_path)
    told = Rehearsal(config, tuning, setup).forecast(run.step)
    assert told.total == pytest.approx(run.peak(), rel=0.1), told


def test_layers_that_are_not_rehearsed_are_told_from_those_that_are(monkeypatch):
    rehearsal = Rehearsal(llama(64, 7), EVERY, Setup(mixed=True, dtype="bfloat16"))
    told = rehearsal.forecast(Step(4, 20))
    monkeypatch.setattr("skeleton_llm.language.memory._SOME", 7)
    every = rehearsal.forecast(Step(4, 20))
    assert told.total == pytest.approx(every.total, rel=0.01)
    assert told.flops == every.flops


def test_weights_gradients_and_states_by_arithmetic_and_their_shards():
    config, step = llama(64, 2), Step(2, 8)
    base = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    adapters = 2 * 16 * (64 + 64) + 2 * 16 * (64 + 32)  # q and v of two layers, with half as many heads for v
    alone = Rehearsal(config, LORA, Setup(dtype="bfloat16")).forecast(step).rows
    shared = Rehearsal(config, LORA, Setup(dtype="bfloat16", strategy="fsdp2", gpus=4)).forecast(step).rows
    assert alone["weights"] == pytest.approx(2 * base, rel=0.001)  # and the rotary frequencies
    assert alone["adapters"] == alone["gradients"] == 4 * adapters
    assert alone["optimiser"] == pytest.approx(8 * adapters, abs=4 * 8)
    for row in ("weights", "adapters", "gradients", "optimiser"):
        assert shared[row] == pytest.approx(alone[row] / 4, abs=1)
    assert alone["communication"] == 0 < shared["communication"]
    assert Rehearsal(config, LORA, Setup(strategy="ddp", gpus=2)).forecast(step).rows["communication"] == 4 * adapters


@pytest.mark.parametrize(("tuning", "times"), [(Tuning(), 4), (Tuning(mode="full"), 6)])
def test_arithmetic_is_four_times_the_weights_a_token_for_adapters_and_six_for_all(tuning, times):
    config = llama(512, 8)
    rehearsal, step = Rehearsal(config, tuning, Setup()), Step(4, 40, 0, 0)
    inner = 8 * (512 * (512 + 256 + 256 + 512) + 3 * 512 * 1536)
    adapters = sum(p.numel() for p in rehearsal.network.parameters() if p.requires_grad) * 6 if times == 4 else 0
    tokens, head = 4 * (40 + 7), 4 * 8 * 512 * 4096 * times
    attention = 8 * 4 * 3 * 4 * 47 * 47 * 512  # two products forward, four backward, of which the kernel does five
    expected = tokens * (times * inner + adapters) + head + attention
    assert rehearsal.forecast(step).flops == pytest.approx(expected, rel=0.05)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    rehearsal, step = Rehearsal(llama(64, 2), LORA, Setup()), Step(1, 20)
    room = rehearsal.forecast(Step(11, 20)).total
    assert rehearsal.largest(step, room, 64) == 11
    assert rehearsal.largest(step, room - 1, 64) == 10
    assert rehearsal.largest(step, room, 8) == 8
    assert rehearsal.largest(step, 1, 64) == 0


def test_a_large_model_needs_no_memory_of_its_own():
    config = llama(5120, 40, num_attention_heads=40, num_key_value_heads=40, intermediate_size=13824, vocab_size=32000)
    rehearsal = Rehearsal(config, Tuning(mode="qlora"), Setup(dtype="float16", mixed=True))
    told = rehearsal.forecast(Step(4, 30))
    assert rehearsal.parameters == pytest.approx(13.07e9, rel=0.001)
    assert told.rows["weights"] == pytest.approx(12.69e9 * 0.5159 + 2 * 2 * 32000 * 5120, rel=0.005)


_OUTSIDE = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_memory import CPU, LORA, Rehearsal, Run, llama
Run(llama(64, 1), LORA, CPU, 2, 8).learn()  # libraries and code are there
def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
open("/proc/self/clear_refs", "w").write("5")
there = resident("VmRSS")
run = Run(llama(512, 6), LORA, CPU, 32, 60)
run.learn(), run.learn()
print(resident("VmHWM") - there, Rehearsal(llama(512, 6), LORA, CPU).forecast(run.step).total)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs")
def test_forecast_is_what_the_operating_system_sees():
    code = _OUTSIDE.format(folder=str(Path(__file__).parent))
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # what is freed goes back
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seen, told = map(int, done.stdout.split())
    assert told == pytest.approx(seen, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tuning", [LORA, EVERY, Tuning(mode="full"), Tuning(mode="qlora", r=16)])
def test_forecast_is_within_a_tenth_of_a_gpus_peak(tuning, tmp_path):
    config, setup = llama(512, 6), Setup()
    run = Run(config, tuning, setup, 32, 60, tmp_path)
    run.network.cuda()
    run.batch = tuple(part.cuda() for part in run.batch)
    run.learn()
    torch.cuda.reset_peak_memory_stats()
    run.learn()
    told = Rehearsal(config, tuning, setup).forecast(run.step)
    assert told.total == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
