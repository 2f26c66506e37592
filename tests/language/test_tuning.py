import math

import pytest
import torch

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
from skeleton_llm.language.inputs import decoder_layers
from skeleton_llm.language.tuning import STRATEGIES, refuse, refuse_bfloat16, refuse_flat
from tiny_llms import write

MODES = ("lora", "qlora", "int8", "full", "frozen")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")


def build(tuning: Tuning, **options) -> LLMRecognizer:
    llm = LanguageModel(attention="eager", **options)
    torch.manual_seed(0)
    wording = Wording(llm.tokenizer(), ["sit", "sit down", "wave"], Prompt())
    inputs = Inputs(map=tuning.mode == "frozen")
    return LLMRecognizer(tuning.apply(llm.load(tuning.quantization)), wording, inputs, share_prefix=False)


@pytest.fixture
def given():
    codes = torch.randn(3, 6, 128, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(codes, dim=-1), torch.ones(3, 6, dtype=torch.bool), torch.tensor([0, 2, 1])


def learning(network):
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("mode", MODES)
def test_what_learns_is_float32_and_its_loss_falls(mode, given):
    network = build(Tuning(mode=mode, r=4, dropout=0.0), dtype="bfloat16" if mode == "full" else "float32").train()
    names = learning(network)
    wanted = {"full": "llm.", "frozen": "input_map."}.get(mode, "lora_")
    assert names
    assert all(wanted in name for name in names)
    assert all(parameter.dtype == torch.float32 for parameter in names.values())
    assert mode != "full" or len(names) == len(list(network.parameters()))
    frozen = {name: parameter for name, parameter in network.named_parameters() if name not in names}
    before = {
        name: parameter.detach().clone().view(torch.uint8) for name, parameter in frozen.items()
    }  # NF4 may be NaN
    optimizer, losses = torch.optim.AdamW(names.values(), lr=5e-3), []
    for _ in range(6):
        loss = network.loss(*given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(frozen[name].detach().view(torch.uint8).equal(bits) for name, bits in before.items())


@pytest.mark.parametrize("mode", ["qlora", "int8"])
def test_quantised_bases_are_smaller_and_near_their_floats(mode, given):
    with torch.no_grad():
        packed, plain = (build(Tuning(mode=m, r=4)).eval() for m in (mode, "lora"))
        assert packed.loss(*given).item() == pytest.approx(plain.loss(*given).item(), rel=0.1)
    kind = {"qlora": "Linear4bit", "int8": "Linear8bitLt"}[mode]
    held = [m for m in packed.modules() if kind in {base.__name__ for base in type(m).__mro__}]
    assert len(held) >= 4 * 7  # every linear layer of the four decoder layers
    size = {name: sum(p.numel() * p.element_size() for p in decoder_layers(n.llm).parameters() if not p.requires_grad)
            for name, n in (("packed", packed), ("plain", plain))}  # fmt: skip
    assert size["packed"] < size["plain"] / (7 if mode == "qlora" else 3.5)


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_recogniser_of_any_mode_scores_as_before(mode, given, tmp_path):
    tuning = Tuning(mode=mode, r=4)
    network = build(tuning).eval()
    with torch.no_grad():
        for parameter in learning(network).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_network(network, tmp_path, LanguageModel(attention="eager"), tuning, Prompt())
    again = load_network(tmp_path)
    again.share_prefix = network.share_prefix  # LLM.int8 rounds a row by what else its batch holds
    torch.testing.assert_close(
        again.score(*given[:2]).log_likelihoods, network.score(*given[:2]).log_likelihoods, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("mode", ["lora", "qlora", "full", "frozen"])
def test_gradient_checkpointing_computes_layers_again_in_training_only_with_the_same_gradients(mode, given):
    gradients = []
    for checkpointing in (False, True):
        network = build(Tuning(mode=mode, r=4, dropout=0.0, gradient_checkpointing=checkpointing)).train()
        passes = []
        decoder_layers(network.llm)[1].self_attn.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        network.loss(*given).backward()
        assert len(passes) == 1 + checkpointing
        gradients.append({name: parameter.grad for name, parameter in learning(network).items()})
        network.eval()
        passes.clear()
        network.loss(*given).backward()
        assert len(passes) == 1
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_rslora_and_dora_are_as_peft_gives_them():
    def adapter(**options):
        model = Tuning(r=16, alpha=8, **options).apply(LanguageModel().load())
        return next(m for m in model.modules() if hasattr(m, "lora_A"))

    assert adapter().scaling["default"] == 8 / 16
    assert adapter(rslora=True).scaling["default"] == 8 / math.sqrt(16)
    assert not adapter().lora_magnitude_vector
    assert adapter(dora=True).lora_magnitude_vector
    for wrong in ({"mode": "full", "dora": True}, {"mode": "frozen", "rslora": True}):
        with pytest.raises(ValueError, match=r"are of adapters, and tuning\.mode (full|frozen) has none"):
            Tuning(**wrong)


def test_targets_are_named_by_the_end_of_a_layers_name_and_gpt2s_one_layer_is_told(tmp_path):
    def adapted(model, *targets):
        tuned = Tuning(r=2, targets=list(targets)).apply(model)
        return {name.rsplit(".", 1)[-1] for name, module in tuned.named_modules() if hasattr(module, "lora_A")}

    gpt2 = LanguageModel(str(write(tmp_path / "gpt2", "gpt2")))
    with pytest.raises(
        ValueError,
        match=r"\['q_proj', 'v_proj'\] name no layer of GPT2LMHeadModel .*: .*one layer, c_attn",
    ):
        Tuning().apply(gpt2.load())
    assert adapted(gpt2.load(), "c_attn") == {"c_attn"}
    assert adapted(gpt2.load(), "all-linear") == {"c_attn", "c_proj", "c_fc"}
    llama = LanguageModel()
    assert adapted(llama.load(), "q_proj", "v_proj") == {"q_proj", "v_proj"}
    assert len(adapted(llama.load(), "all-linear")) == 7
    with pytest.raises(ValueError, match=r"\['query'\] name no layer of LlamaForCausalLM .*: it has .*q_proj"):
        Tuning(targets=["query"]).apply(llama.load())
    with pytest.raises(ValueError, match=r"\['norm'\] name no layer"):
        Tuning(targets=["norm"]).apply(llama.load())


def test_a_base_in_other_bits_than_the_mode_is_refused():
    with pytest.raises(ValueError, match=r"tuning\.mode full cannot train weights quantised otherwise than none"):
        Tuning(mode="full").apply(LanguageModel().load("nf4"))
    with pytest.raises(ValueError, match=r"tuning\.mode qlora cannot train weights quantised otherwise than nf4"):
        Tuning(mode="qlora").apply(LanguageModel().load())


def works(*cell) -> bool:
    try:
        refuse(*cell)
    except ValueError:
        return False
    return True


def test_the_cells_that_work_are_those_that_are_tested():
    cpu = {(mode, strategy) for mode in MODES for strategy in STRATEGIES if works(mode, strategy, "cpu")}
    alone = {(mode, strategy) for mode in MODES for strategy in ("single", "ddp")}
    assert cpu == alone | {(mode, f"fsdp{i}") for mode in ("lora", "qlora", "full", "frozen") for i in (1, 2)}
    for mode in MODES:
        for strategy in STRATEGIES:
            assert works(mode, strategy, "cuda") == ((mode, strategy) in cpu)
            for optimizer in OPTIMIZERS:
                right = (mode, strategy) in cpu and (optimizer == "adamw" or strategy in ("single", "ddp"))
                assert works(mode, strategy, "cuda", optimizer) == right
    assert {mode for mode in MODES if works(mode, "single", "mps")} == {"lora", "full", "frozen"}


@pytest.mark.parametrize(  # what is refused, a pattern of the sentence, what works instead
    ("cell", "named", "instead"),
    [
        (("int8", "fsdp2", "cuda"), "tuning.mode qlora with configs/hardware/fsdp2.yaml", ("qlora", "fsdp2", "cuda")),
        (("int8", "fsdp1", "cuda"), "tuning.mode qlora with configs/hardware/fsdp2.yaml", ("qlora", "fsdp2", "cuda")),
        (("lora", "fsdp", "cuda"), "take configs/hardware/fsdp2.yaml, or .* fsdp1", ("lora", "fsdp1", "cuda")),
        (("full", "FSDPStrategy", "cuda"), "take configs/hardware/fsdp2.yaml, or .* fsdp1", ("full", "fsdp1", "cuda")),
        (("full", "fsdp1", "cuda", "adamw_8bit"), "set it to adamw, .* trainer.strategy ddp", ("full", "ddp", "cuda")),
        (("full", "fsdp2", "cuda", "adamw_8bit"), "set it to adamw, .* trainer.strategy ddp", ("full", "ddp", "cuda")),
        (("lora", "ddp", "cpu", "paged_adamw_8bit"), "set it to adamw_8bit", ("lora", "ddp", "cpu", "adamw_8bit")),
        (("qlora", "single", "mps"), "tuning.mode qlora needs bitsandbytes.*to lora", ("lora", "single", "mps")),
        (("lora", "single", "mps", "adamw_8bit"), "set it to adamw", ("lora", "single", "mps")),
        (("lora", "deepspeed", "cuda"), "take ddp, or configs/hardware/fsdp2.yaml", ("lora", "ddp", "cuda")),
    ],
)  # fmt: skip
def test_what_cannot_work_names_the_nearest_that_does(cell, named, instead):
    with pytest.raises(ValueError, match=named):
        refuse(*cell)
    refuse(*instead)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"dora": True}, "tuning.dora .* set it to false, or take configs/hardware/fsdp2.yaml"),
        (
            {"input_map": True},
            "inputs.map learns in float32 beside words in bfloat16, .* llm.dtype to float32, or take",
        ),
        ({"form": "vocabulary"}, "inputs.form vocabulary learns in float32 beside words in bfloat16"),
    ],
)
def test_what_fsdp1_cannot_flatten_is_refused(keys, named):
    with pytest.raises(ValueError, match=named):
        refuse_flat("fsdp1", "bfloat16", **keys)
    refuse_flat("fsdp2", "bfloat16", **keys)
    if "dora" not in keys:
        refuse_flat("fsdp1", "float32", **keys)
    refuse_flat("fsdp1", "bfloat16", form="latents")


def test_bfloat16_is_refused_on_gpus_that_only_emulate_it():
    keys = {"llm.dtype": "bfloat16", "trainer.precision": "16-mixed"}
    with pytest.raises(ValueError, match=r"llm\.dtype bfloat16: Tesla V100 .*7\.0.* set it to float16"):
        refuse_bfloat16(keys, "Tesla V100", (7, 0))
    with pytest.raises(ValueError, match=r"trainer\.precision bf16-mixed: .* set it to 16-mixed"):
        refuse_bfloat16({"trainer.precision": "bf16-mixed"}, "Tesla V100", (7, 0))
    refuse_bfloat16({"llm.dtype": "float16", "trainer.precision": "16-mixed"}, "Tesla V100", (7, 0))
    refuse_bfloat16(keys, "A100", (8, 0))
