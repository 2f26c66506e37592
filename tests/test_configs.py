import json
import math
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.main import main
from skeleton_llm.skeletons import PROTOCOLS
from small_runs import run

CONFIGS = Path(__file__).parents[1] / "configs"
STAGE1 = "data/* unseen/draw* unseen/synse* llm/built_in llm/llama_7b llm/llama_13b paper/*_stage1"
STAGE1 += " hardware/a100 hardware/v100 hardware/ddp hardware/amx hardware/compile"
STAGE1 += " ablation/euclidean ablation/no_zipf ablation/no_context ablation/no_mmd ablation/no_biases"
STAGE1 += " ablation/no_noise ablation/continuous ablation/ema ablation/person_sentences"
STAGE1 += " ablation/night ablation/all_training ablation/tiny ablation/tiny_tokenizer"
STAGE1 += " watch/* slurm/*"
STAGE1 += " ablation/windows ablation/whole_clips"
STAGE2 = "data/* unseen/* llm/* paper/*_stage2"
STAGE2 += " slurm/* hardware/a100 hardware/v100 hardware/ddp hardware/fsdp1 hardware/fsdp2* hardware/amx"
STAGE2 += " ablation/full_tuning ablation/lora_qv ablation/frozen ablation/untrained_llm ablation/no_input_map"
STAGE2 += " ablation/night ablation/all_training ablation/tiny ablation/read_once"
STAGE2 += " ablation/latents ablation/late_latents ablation/new_words"
RECOGNIZER = "data/* hardware/a100 hardware/v100 hardware/ddp hardware/amx slurm/*"
RECOGNIZER += " ablation/night ablation/all_training ablation/tiny ablation/tiny_graph"
RECOGNIZER += " recognizer/* paper/st_gcn paper/ctr_gcn"
STAGES = {"stage1.yaml": STAGE1.split(), "stage2.yaml": STAGE2.split(), "recognizer.yaml": RECOGNIZER.split()}
LEGAL = [
    (base, overlay.relative_to(CONFIGS))
    for base, patterns in STAGES.items()
    for pattern in patterns
    for overlay in sorted(CONFIGS.glob(f"{pattern}.yaml"))
]


def test_every_config_is_covered():
    covered = {str(overlay) for _, overlay in LEGAL} | set(STAGES) | {"ablations.yaml"}
    assert {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} == covered


@pytest.mark.parametrize(("base", "overlay"), LEGAL, ids=str)
def test_every_legal_overlay_parses_and_changes_something(base, overlay, capsys):
    data = ["--data.init_args.folder", "x", "--data.init_args.protocol", "y"]
    tokenizer = ["--model.init_args.tokenizer", "t"] if base == "stage2.yaml" else []
    shown = []
    for configs in ([base], [base, overlay]):
        arguments = [part for config in configs for part in ("--config", str(CONFIGS / config))]
        more = data if overlay.parts[0] != "data" or len(configs) == 1 else []
        with pytest.raises(SystemExit) as left:
            main(["fit", *arguments, *more, *tokenizer, "--print_config"])
        assert left.value.code == 0
        shown.append(capsys.readouterr().out)
    # the second: what it changes is the paper's, behind which it stands
    assert shown[0] != shown[1] or overlay.stem in ("built_in", "four_gpus_stage1")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_says_what_it_is(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def composed(arguments: list[str], capsys) -> dict:
    """The whole config that a command line comes to."""
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--print_config"])
    assert left.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def made(*variables: str, target: str = "stage1") -> list[str]:
    """The arguments that ``make`` gives the command."""
    asked = ["make", "--dry-run", target, *variables]
    alone = {"PATH": os.environ["PATH"]}  # without the variables of a make around the tests
    shown = subprocess.run(asked, cwd=CONFIGS.parent, env=alone, capture_output=True, text=True, check=True).stdout
    lines = shown.replace("\\\n", "").splitlines()
    return shlex.split(next(line for line in lines if "skeleton-llm fit" in line))[1:]


@pytest.mark.parametrize("overlay", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_make_prepares_the_dataset_of_an_overlay(overlay):
    asked = ["make", "--dry-run", "prepare", f"DATA={overlay.stem}"]
    shown = subprocess.run(asked, cwd=CONFIGS.parent, capture_output=True, text=True, check=True).stdout
    dataset = shown.split("skeleton-llm prepare ")[1].split()[0]
    given = yaml.safe_load(overlay.read_text())["data"]["init_args"]
    assert dataset == PROTOCOLS[given["protocol"]].dataset
    assert given["folder"] == f"data/{dataset}"


@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS.values() if p.inner_of], ids=lambda p: p.name)
def test_inner_overlays_differ_from_the_published_ones_in_the_protocol_alone(protocol):
    inner, outer = (
        yaml.safe_load((CONFIGS / f"data/{name}.yaml").read_text())["data"]["init_args"]
        for name in (protocol.name, protocol.dataset)
    )
    assert inner.pop("protocol") == protocol.name
    assert outer.pop("protocol") == protocol.inner_of
    assert inner == outer


@pytest.mark.parametrize("preset", ["llm_ar", "t2m_gpt"])
def test_papers_presets_are_fit_for_their_300_000_steps_and_clip_no_gradient(preset, capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    laptop, paper = (
        composed(made("DATA=ntu60_xsub", *more), capsys)
        for more in ([], [f"CONFIG=configs/paper/{preset}_stage1.yaml"])
    )
    trainer = paper["trainer"]
    assert (trainer["max_steps"], paper["data"]["init_args"]["batch_size"]) == (300_000, 256)
    assert (trainer["gradient_clip_val"], trainer["deterministic"]) == (None, False)
    watchers = trainer["callbacks"]
    assert [one["class_path"] for one in watchers] == [one["class_path"] for one in laptop["trainer"]["callbacks"]]
    assert watchers[1:] == laptop["trainer"]["callbacks"][1:]
    saved = watchers[0]["init_args"].pop("every")
    assert 10 <= 300_000 / saved <= 100  # 410 MiB each
    assert 10 <= 300_000 / trainer["val_check_interval"] <= 100
    del laptop["trainer"]["callbacks"][0]["init_args"]["every"]
    assert watchers[0] == laptop["trainer"]["callbacks"][0]


def test_the_papers_preset_names_its_language_model_unless_told_another(capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    preset = "configs/paper/llm_ar_stage1.yaml"
    model = composed(made("DATA=ntu60_xsub", f"CONFIG={preset}"), capsys)["model"]["init_args"]
    assert model["llm"]["name"] == "huggyllama/llama-13b"  # whose word embeddings are 5120 wide
    assert model["network"]["streams"] == ["joint"]
    other = made("DATA=ntu60_xsub", f"CONFIG={preset} configs/hardware/a100.yaml", "LLM=my/model")
    assert composed(other, capsys)["model"]["init_args"]["llm"]["name"] == "my/model"
    built_in = made("DATA=ntu60_xsub", f"CONFIG={preset} configs/llm/built_in.yaml")
    assert composed(built_in, capsys)["model"]["init_args"]["llm"]["name"] == "built-in"


@pytest.mark.parametrize(
    ("variables", "folder", "network", "streams"),
    [
        ("", "convolution-skeleton", "ConvolutionConfig", None),
        ("NETWORK=transformer SOURCE=sentences", "transformer-sentences", "TransformerConfig", None),
        ("NETWORK=ctr_gcn STREAM=bone_motion", "ctr_gcn-bone_motion", "CTRGCNConfig", ["bone_motion"]),
        ("NETWORK=st_gcn CONFIG=configs/paper/st_gcn.yaml", "st_gcn-skeleton", "STGCNConfig", ["joint"]),
        ("NETWORK=nearest SOURCE=latents", "nearest-latents", None, None),
    ],
)
def test_make_recognizer_comes_to_the_network_and_source_it_names(
    variables, folder, network, streams, capsys, monkeypatch
):
    monkeypatch.chdir(CONFIGS.parent)
    found = composed(made("DATA=ntu60_xsub", "RUN=mine", *variables.split(), target="recognizer"), capsys)
    assert found["trainer"]["default_root_dir"] == f"runs/mine/{folder}"
    model = found["model"]["init_args"]
    assert model["source"] == folder.split("-")[1] if "STREAM" not in variables else "skeleton"
    assert model["tokenizer"] == (None if model["source"] == "skeleton" else "runs/mine/stage1/tokenizer")
    assert model["streams"] == streams
    if network is None:
        assert found["model"]["class_path"] == "lightning_modules.LitNearestNeighbour"
    else:
        assert model["network"]["class_path"] == f"skeleton_llm.networks.{network}"


SMALLER = {  # sizes alone; they stand behind the preset
    "model.init_args.llm.name": "built-in",
    "model.init_args.network.width": 16,
    "model.init_args.network.depth": 1,
    "model.init_args.network.num_codes": 32,
    "model.init_args.sample_clips": 64,
    "data.init_args.batch_size": 16,
    "data.init_args.num_workers": 0,
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
    "trainer.enable_progress_bar": "false",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "placed", "kept"),
    [
        ("llm_ar", 2, {"geometry": "hyperbolic", "codebook": "gradient", "streams": ("joint",), "tokens_per_step": 1}),
        ("t2m_gpt", 1, {"geometry": "euclidean", "codebook": "ema", "noise": False, "tokens_per_step": 1}),
    ],
)
def test_steps_of_the_papers_presets_at_a_small_size(preset, placed, kept, small_data, tmp_path):
    configs = ("stage1", "data/synthetic", f"paper/{preset}_stage1")
    sizes = SMALLER | {"data.init_args.folder": small_data, "trainer.default_root_dir": tmp_path}
    sizes["model.init_args.quantize_after"] = placed
    arguments = [part for config in configs for part in ("--config", str(CONFIGS / f"{config}.yaml"))]
    run(["fit", *arguments, *(f"--{key}={value}" for key, value in sizes.items())])
    assert all(map(math.isfinite, json.loads((tmp_path / "results.json").read_text()).values()))
    tokenizer = ActionTokenizer.from_pretrained(tmp_path / "tokenizer")
    network = tokenizer.vqvae.config
    assert {name: getattr(network, name) for name in kept} == kept
    assert tokenizer.vqvae.quantizer.ready
