import json
import re
from pathlib import Path

import lightning
import pytest
import torch
import yaml
from ranks import on_two_ranks
from safetensors.torch import load_file

from datamodules import SkeletonDataModule
from lightning_modules import LitLLMRecognizer
from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.main import main
from skeleton_llm.cli.refusals import refuse_impossible
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.language import LanguageModel, Tuning
from skeleton_llm.networks import VQVAE, VQVAEConfig
from skeleton_llm.shards import read, write
from skeleton_llm.skeletons import Preprocess
from small_runs import stage1_arguments, stage2_arguments

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    vqvae = VQVAE(VQVAEConfig(width=16, depth=1, num_codes=32), layout="ntu25", num_persons=2, dim=128)
    folder = tmp_path_factory.mktemp("tokenizer")
    info = {"llm": {"fingerprint": LanguageModel().fingerprint()}}
    ActionTokenizer(vqvae, Preprocess(frames=32), info).save_pretrained(folder)
    return folder


def on_one_and_two_ranks(data, tokenizer, out, *cells):
    codes, errors = on_two_ranks("tuning_ranks.py", data, tokenizer, out, *cells)
    assert codes == [0, 0], errors


def learned(folder):
    files = [path for path in folder.rglob("*.safetensors") if "tokenizer" not in path.parts]
    return {f"{path.name}:{key}": tensor for path in files for key, tensor in load_file(path).items()}


def found(out, cell, ranks):
    return json.loads((out / f"{cell.replace(':', '_')}_{ranks}.json").read_text())


def merged(out, name, kind):
    """What ranks wrote of the clips that each of them had."""
    of_ranks = [json.loads(path.read_text())[kind] for path in out.glob(f"{name}_[01].json")]
    return {clip: row for of_rank in of_ranks for clip, row in of_rank.items()}


def assert_shares(out, name):
    """Every weight is a DTensor, and what the two ranks hold is all of it, in halves."""
    zero, one = (json.loads((out / f"{name}_{rank}.json").read_text())["held"] for rank in (0, 1))
    assert zero["whole"] == one["whole"] == 0
    assert zero["here"] + one["here"] == zero["all"] == one["all"]
    assert zero["here"] == pytest.approx(one["here"], rel=0.01)


def assert_alike(out, cell):
    name = cell.replace(":", "_")
    one, two = (found(out, cell, ranks) for ranks in (1, 2))
    assert one["validated"] == two["validated"] == [2, 4]  # in the middle of training too
    assert len(one["losses"]) == 4
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
    assert one["metrics"].keys() == two["metrics"].keys()
    assert two["sharded"] > 0 if "fsdp" in cell else two["sharded"] == 0
    scores = [merged(out, f"{name}_{ranks}", "scores") for ranks in (1, 2)]
    assert len(scores[0]) == 9
    for index, row in scores[0].items():
        assert scores[1][index] == pytest.approx(row, abs=5e-3)
    left, right = (torch.load(out / f"{name}_{ranks}.pt") for ranks in (1, 2))
    assert "fsdp1" in cell or right.keys() == left.keys()
    for key, gradient in right.items():
        torch.testing.assert_close(gradient, left[key], rtol=0, atol=1e-5 * left[key].abs().max().item(), msg=key)
    left, right = (learned(out / f"{name}_{ranks}") for ranks in (1, 2))
    assert {key: tensor.shape for key, tensor in left.items()} == {key: tensor.shape for key, tensor in right.items()}
    assert left
    for key, tensor in left.items():
        torch.testing.assert_close(right[key], tensor, rtol=0, atol=2e-3, msg=key)  # Adam steps by the sign of noise
    return one, two


def test_lora_on_two_ranks_is_that_of_one_process_whole_or_sharded_and_goes_on_from_its_checkpoint(
    small_data, tokenizer, tmp_path
):
    cells = ("lora:ddp", "lora:fsdp1", "lora:fsdp2")
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, *cells)
    for cell in cells:
        one, two = assert_alike(tmp_path, cell)
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
    for name in ("lora_fsdp1_2", "lora_fsdp2_2"):
        whole, resumed = (learned(tmp_path / f"{name}{end}") for end in ("", "_resumed"))
        assert all(tensor.equal(resumed[key]) for key, tensor in whole.items())
        checkpoint = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert all("lora" in key or "temperature" in key for key in checkpoint["state_dict"])
        assert not any("wrapped" in key for key in checkpoint["state_dict"])
    assert_shares(tmp_path, "lora_fsdp2_2")


@pytest.mark.slow
def test_checkpoints_in_shards_resume_with_the_same_bits_and_are_read_by_one_process_and_by_two(
    small_data, tokenizer, tmp_path
):
    cells = ("full:fsdp2:shards", "lora:fsdp2:shards")
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, *cells)
    for cell in cells:
        name = cell.replace(":", "_")
        assert_alike(tmp_path, cell)
        assert_shares(tmp_path, f"{name}_2")
        whole, resumed = (learned(tmp_path / f"{name}_2{end}") for end in ("", "_resumed"))
        assert all(tensor.equal(resumed[key]) for key, tensor in whole.items())
        of_one, of_two = (read(tmp_path / f"{name}_{ranks}.ckpt") for ranks in (1, 2))
        assert (tmp_path / f"{name}_1.ckpt").is_file()
        assert len([*(tmp_path / f"{name}_2.ckpt").glob("shard-*")]) == 2
        assert of_one["state_dict"].keys() == of_two["state_dict"].keys()
        for key, weight in of_one["state_dict"].items():
            torch.testing.assert_close(of_two["state_dict"][key], weight, rtol=0, atol=1e-3, msg=key)
        for writers in (1, 2):
            one, two = (merged(tmp_path, f"{name}_{writers}_read_by_{readers}", "scores") for readers in (1, 2))
            assert one.keys() == two.keys()
            assert len(one) == 9
            for clip, row in one.items():
                assert two[clip] == pytest.approx(row, abs=1e-4)
    assert all("lora" in key or "temperature" in key for key in of_two["state_dict"])
    lora, full = (
        sum(file.stat().st_size for file in (tmp_path / f"{mode}_fsdp2_shards_2.ckpt").iterdir())
        for mode in ("lora", "full")
    )
    assert lora < full / 20  # nothing of the base


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells",
    [
        "full:ddp full:fsdp1 full:ddp:eight_bits full:fsdp1:checkpointed full:fsdp2:checkpointed"
        " frozen:ddp frozen:fsdp1 frozen:fsdp2 qlora:ddp qlora:fsdp1 qlora:fsdp2 int8:ddp",
        "lora:ddp:dora lora:fsdp2:dora lora:ddp:checkpointed lora:fsdp1:checkpointed lora:fsdp2:checkpointed"
        " lora:ddp:vocabulary lora:fsdp1:vocabulary lora:fsdp2:vocabulary lora:ddp:late lora:fsdp1:late lora:fsdp2:late"
        " lora:ddp:late_checkpointed lora:fsdp1:late_checkpointed lora:fsdp2:late_checkpointed"
        " lora:ddp:search lora:fsdp1:search lora:fsdp2:search",
    ],
    ids=["modes", "forms"],
)
def test_every_other_mode_and_form_on_two_ranks_is_that_of_one_process(small_data, tokenizer, tmp_path, cells):
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, *cells.split())
    for cell in cells.split():
        assert_alike(tmp_path, cell)


@pytest.mark.slow
def test_float32_adapters_on_a_bfloat16_base_learn_alike_under_fsdp1_and_fsdp2(small_data, tokenizer, tmp_path):
    pairs = [(f"{mode}:fsdp1:bfloat16", f"{mode}:fsdp2:bfloat16") for mode in ("lora", "qlora")]
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, *pairs[0], *pairs[1])
    for pair in pairs:
        old, new = (found(tmp_path, cell, 2)["losses"] for cell in pair)
        assert old == pytest.approx(new, abs=1e-4)
        assert old == pytest.approx(found(tmp_path, pair[0], 1)["losses"], abs=0.02)  # bfloat16 rounds to 0.4 %


@pytest.mark.slow
def test_a_rank_killed_in_the_middle_of_its_shard_costs_the_steps_since_the_last_checkpoint_and_nothing_else(
    small_data, tokenizer, tmp_path
):
    callbacks = yaml.safe_load((ROOT / "configs/stage2.yaml").read_text())["trainer"]["callbacks"]
    callbacks[0]["init_args"]["every"] = 2
    saving = tmp_path / "saving.yaml"
    saving.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    strategy = "{class_path: lightning_modules.FSDP2, init_args: {sharded_checkpoints: true}}"
    more = ["--config", saving, "--model.init_args.tuning.mode", "full", "--model.init_args.optimization.lr", "1e-3"]
    more += [
        "--model.init_args.generate",
        "false",
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        strategy,
        "--trainer.inference_mode",
        "false",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    codes, errors = on_two_ranks("killed_ranks.py", "never", *stage2_arguments(small_data, whole, tokenizer, *more))
    assert codes == [0, 0], errors
    again = stage2_arguments(small_data, killed, tokenizer, *more)
    codes, errors = on_two_ranks("killed_ranks.py", ".step=4.ckpt.tmp/shard", *again)
    assert codes[1] == -9
    assert codes[0] != 0
    assert newest_checkpoint(killed / "checkpoints").name == "step=2.ckpt"
    codes, errors = on_two_ranks("killed_ranks.py", "never", *again)
    assert codes == [0, 0], errors
    assert "going on from step 2" in errors
    left, right = (learned(folder / "recognizer") for folder in (whole, killed))
    assert left
    assert all(tensor.equal(right[key]) for key, tensor in left.items())
    results = json.loads((whole / "results.json").read_text())
    assert json.loads((killed / "results.json").read_text()) == results
    kept = {path.name for path in (killed / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "step=2.ckpt", "step=4.ckpt"}

    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    asked = ["test", "--config", whole / "config.yaml", "--ckpt_path", killed / "checkpoints/step=4.ckpt"]
    assert main([*map(str, asked), "--trainer.default_root_dir", str(tmp_path / "one"), *alone]) == 0
    tested = json.loads((tmp_path / "one/results.json").read_text())
    assert tested == pytest.approx({k: v for k, v in results.items() if k.startswith("test/")}, abs=1e-5)
    for source, out in ((killed, "newest"), (killed / "checkpoints/best.ckpt", "best")):
        assert main(["export", str(source), "--out", str(tmp_path / out)]) == 0
    exported = learned(tmp_path / "newest")
    assert left.keys() == exported.keys()
    assert all(tensor.equal(exported[key]) for key, tensor in left.items())


def test_only_fsdp2_trains_on_from_a_checkpoint_in_shards(small_data, tokenizer, tmp_path, capsys):
    names = SkeletonDataModule(str(small_data), "synthetic_xsub").class_names
    model = LitLLMRecognizer(str(tokenizer), names, "ntu25", llm=LanguageModel(attention="eager"), tuning=Tuning(r=4))
    model.configure_model()
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    weights = {f"state_dict.{name}": tensor for name, tensor in checkpoint.pop("state_dict").items()}
    checkpoint |= {"global_step": 2, "pytorch-lightning_version": lightning.__version__}
    write(tmp_path / "step=2.ckpt", weights, {**checkpoint, "optimizer_states": [{"param_groups": []}]})
    arguments = stage2_arguments(small_data, tmp_path / "run", tokenizer, "--model.init_args.inputs.map", "false")
    assert main([*arguments, "--ckpt_path", str(tmp_path / "step=2.ckpt")]) == 2
    said = capsys.readouterr().err
    assert "only trainer.strategy FSDP2 reads the optimiser's state" in said


_WHOLE = ["--trainer.inference_mode", "false"]
_FSDP2 = ["--trainer.strategy", "{class_path: lightning_modules.FSDP2}"]
_OPTIMIZER = "--model.init_args.optimization.optimizer"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([*_FSDP2, "--model.init_args.tuning.mode", "int8"], "tuning.mode int8 cannot be sharded"),
        ([*_FSDP2, _OPTIMIZER, "adamw_8bit"], "cannot update shards"),
        (["--trainer.strategy", "fsdp1", _OPTIMIZER, "adamw_8bit"], "cannot update shards"),
        ([_OPTIMIZER, "paged_adamw_8bit"], "set it to adamw_8bit"),
        (_FSDP2, "trainer.strategy FSDP2 cannot train .* set trainer.inference_mode to false"),
        (["--trainer.strategy", "fsdp2"], "trainer.strategy FSDP2 cannot train .* set trainer.inference_mode to false"),
        (["--trainer.strategy", "fsdp1"], "trainer.strategy FSDP1 cannot train .* set trainer.inference_mode to false"),
        ([*_FSDP2, *_WHOLE, "--trainer.precision", "16-mixed"], "FSDP2 does not compute in trainer.precision 16-mixed"),
        (["--trainer.strategy", "fsdp1", *_WHOLE, "--model.init_args.tuning.dora", "true"], "tuning.dora reads"),
        (
            ["--trainer.strategy", "fsdp1", *_WHOLE, "--model.init_args.llm.dtype", "bfloat16"],
            "inputs.map learns in float32 beside words in bfloat16",
        ),
        (["--trainer.strategy", "fsdp"], "take configs/hardware/fsdp2.yaml"),
        (
            ["--trainer.strategy", "{class_path: lightning.pytorch.strategies.FSDPStrategy}"],
            "take configs/hardware/fsdp2.yaml",
        ),
        (
            ["--trainer.strategy", "{class_path: lightning.pytorch.strategies.ModelParallelStrategy}"],
            "to shard the model",
        ),
        (["--trainer.strategy", "lightning_modules.FSDP2"], "to shard the model"),  # Lightning takes it for a name
    ],
)
def test_a_run_that_cannot_work_is_one_sentence_before_anything_loads(tmp_path, capsys, more, named):
    nowhere = tmp_path / "nowhere"  # neither data nor tokenizer
    assert main(stage2_arguments(nowhere, tmp_path / "run", nowhere, *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert re.search(named, error[0])


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2", "{class_path: lightning_modules.FSDP1}", _FSDP2[1]])
def test_a_sharded_run_is_known_by_name_and_by_class(tmp_path, capsys, strategy):
    nowhere = tmp_path / "nowhere"
    assert main(stage2_arguments(nowhere, tmp_path / "run", nowhere, "--trainer.strategy", strategy, *_WHOLE)) == 2
    assert str(nowhere) in capsys.readouterr().err  # nothing else is wrong


def test_stage_1_is_not_sharded(tmp_path, capsys):
    assert main(stage1_arguments(tmp_path / "nowhere", tmp_path / "run", *_FSDP2)) == 2
    assert "which this stage does not train; take ddp" in capsys.readouterr().err


def test_the_tuning_that_cannot_be_sharded_runs_on_one_process_or_by_ddp():
    trainer = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true", "max_steps": 9}
    model = {"tuning": {"mode": "int8"}, "llm": None, "optimization": None}
    for strategy in ("auto", "ddp", "ddp_spawn", {"class_path": "lightning.pytorch.strategies.DDPStrategy"}):
        refuse_impossible(model, {**trainer, "strategy": strategy})
    with pytest.raises(ValueError, match="cannot be sharded"):
        refuse_impossible(model, {**trainer, "strategy": {"class_path": "lightning_modules.FSDP2"}})
