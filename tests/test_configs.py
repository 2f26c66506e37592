from pathlib import Path

import pytest

from skeleton_llm.cli.main import main

CONFIGS = Path(__file__).parents[1] / "configs"
STAGE1 = "data/* unseen/draw* unseen/synse* llm/built_in llm/llama_7b llm/llama_13b paper/*_stage1"
STAGE1 += " hardware/a100 hardware/v100 hardware/ddp hardware/amx hardware/compile"
STAGE1 += " ablation/euclidean ablation/no_zipf ablation/no_context ablation/no_mmd ablation/no_biases"
STAGE1 += " ablation/no_noise ablation/quick ablation/continuous ablation/ema ablation/person_sentences"
STAGE1 += " ablation/windows ablation/whole_clips"
STAGE2 = "data/* unseen/* llm/* paper/llm_ar_stage2"
STAGE2 += " hardware/a100 hardware/v100 hardware/ddp hardware/fsdp1 hardware/fsdp2 hardware/amx"
STAGE2 += " ablation/full_tuning ablation/untrained_llm ablation/no_input_map"
STAGE2 += " ablation/latents ablation/late_latents ablation/new_words"
PROBE = "data/* hardware/a100 hardware/amx ablation/quick"
STAGES = {"stage1.yaml": STAGE1.split(), "stage2.yaml": STAGE2.split(), "probe.yaml": PROBE.split()}
LEGAL = [
    (base, overlay.relative_to(CONFIGS))
    for base, patterns in STAGES.items()
    for pattern in patterns
    for overlay in sorted(CONFIGS.glob(f"{pattern}.yaml"))
]


def test_every_config_is_covered():
    covered = {str(overlay) for _, overlay in LEGAL} | set(STAGES)
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
    assert shown[0] != shown[1] or overlay.stem == "built_in"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_says_what_it_is(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20
