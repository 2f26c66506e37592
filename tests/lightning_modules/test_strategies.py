import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.fit import refuse_impossible
from skeleton_llm.cli.main import main
from skeleton_llm.language import LanguageModel
from skeleton_llm.networks import VQVAE, VQVAEConfig
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    known = {**os.environ, "PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    script = [sys.executable, str(ROOT / "tests/references/tuning_ranks.py"), *map(str, (data, tokenizer, out)), *cells]
    ranks = [
        subprocess.Popen(script, env={**known, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(error[-3000:] for error in errors)


def learned(folder):
    files = [path for path in folder.rglob("*.safetensors") if "tokenizer" not in path.parts]
    return {f"{path.name}:{key}": tensor for path in files for key, tensor in load_file(path).items()}


def assert_alike(out, cell):
    name = cell.replace(":", "_")
    one, two = (json.loads((out / f"{name}_{ranks}.json").read_text()) for ranks in (1, 2))
    assert one["validated"] == two["validated"] == [2, 4]  # in the middle of training too
    assert len(one["losses"]) == 4
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-4)
    assert one["metrics"].keys() == two["metrics"].keys()
    assert two["sharded"] > 0 if "fsdp2" in cell else two["sharded"] == 0
    scores = [
        {
            int(i): row
            for path in out.glob(f"{name}_{ranks}_scores*.json")
            for i, row in json.loads(path.read_text()).items()
        }
        for ranks in (1, 2)
    ]
    assert len(scores[0]) == 9
    for index, row in scores[0].items():
        assert scores[1][index] == pytest.approx(row, abs=5e-3)
    left, right = (learned(out / f"{name}_{ranks}") for ranks in (1, 2))
    assert {key: tensor.shape for key, tensor in left.items()} == {key: tensor.shape for key, tensor in right.items()}
    assert left
    for key, tensor in left.items():
        torch.testing.assert_close(right[key], tensor, rtol=0, atol=2e-3, msg=key)  # Adam steps by the sign of noise
    return one, two


def test_lora_on_two_ranks_is_that_of_one_process_whole_or_sharded_and_goes_on_from_its_checkpoint(
    small_data, tokenizer, tmp_path
):
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, "lora:ddp", "lora:fsdp2")
    for cell in ("lora:ddp", "lora:fsdp2"):
        one, two = assert_alike(tmp_path, cell)
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
    whole, resumed = (learned(tmp_path / f"lora_fsdp2_2{end}") for end in ("", "_resumed"))
    assert all(tensor.equal(resumed[key]) for key, tensor in whole.items())
    checkpoint = torch.load(tmp_path / "lora_fsdp2_2.ckpt", weights_only=True)
    assert all("lora" in key or "temperature" in key for key in checkpoint["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells",
    [
        ["qlora:ddp", "qlora:fsdp2"],
        ["int8:ddp"],
        ["full:ddp", "full:fsdp2"],
        ["frozen:ddp", "frozen:fsdp2"],
        ["lora:fsdp2:dora", "lora:fsdp2:checkpointed", "lora:ddp:checkpointed", "full:fsdp2:checkpointed"],
    ],
    ids=str,
)
def test_every_other_mode_on_two_ranks_is_that_of_one_process(small_data, tokenizer, tmp_path, cells):
    on_one_and_two_ranks(small_data, tokenizer, tmp_path, *cells)
    for cell in cells:
        assert_alike(tmp_path, cell)


_FSDP2 = ["--trainer.strategy", "{class_path: lightning_modules.FSDP2}"]
_OPTIMIZER = "--model.init_args.optimization.optimizer"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([*_FSDP2, "--model.init_args.tuning.mode", "int8"], "tuning.mode int8 cannot be sharded"),
        ([*_FSDP2, _OPTIMIZER, "adamw_8bit"], "cannot update shards"),
        ([_OPTIMIZER, "paged_adamw_8bit"], "set it to adamw_8bit"),
        (_FSDP2, "set trainer.inference_mode to false"),
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
    assert named in error[0]


def test_stage_1_is_not_sharded(tmp_path, capsys):
    assert main(stage1_arguments(tmp_path / "nowhere", tmp_path / "run", *_FSDP2)) == 2
    assert "which this stage does not train; take ddp" in capsys.readouterr().err


def test_the_tuning_that_cannot_be_sharded_runs_on_one_process_or_by_ddp():
    trainer = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}
    model = {"tuning": {"mode": "int8"}, "llm": None, "optimization": None}
    for strategy in ("auto", "ddp", "ddp_spawn", {"class_path": "lightning.pytorch.strategies.DDPStrategy"}):
        refuse_impossible(model, {**trainer, "strategy": strategy})
    with pytest.raises(ValueError, match="cannot be sharded"):
        refuse_impossible(model, {**trainer, "strategy": {"class_path": "lightning_modules.FSDP2"}})
