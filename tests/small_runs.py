"""Small runs for tests: both stages of the shipped configs, cut down to seconds."""

from pathlib import Path

import torch

from skeleton_llm import Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.language import Inputs, LanguageModel, LLMRecognizer, Prompt, Tuning, Wording
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.skeletons import Preprocess
from skeleton_llm.skeletons.synthetic import CLASS_NAMES

ROOT = Path(__file__).parents[1]
SMALL = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--data.init_args.batch_size", "16"]


def stage1_arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        "fit",
        "--config", str(ROOT / "configs/stage1.yaml"),
        "--config", str(ROOT / "configs/data/synthetic.yaml"),
        "--data.init_args.folder", str(data),
        "--trainer.default_root_dir", str(folder),
        "--model.init_args.network.width", "16",
        "--model.init_args.network.num_codes", "32",
        "--model.init_args.network.tokens_per_step", "1",
        "--model.init_args.quantize_after", "2",
        "--model.init_args.sample_clips", "64",
        "--trainer.max_steps", "6",
        "--trainer.val_check_interval", "3",
        *SMALL, *more,
    ]  # fmt: skip


def stage2_arguments(data: Path, folder: Path, tokenizer: Path, *more: str) -> list[str]:
    return [
        "fit",
        "--config", str(ROOT / "configs/stage2.yaml"),
        "--config", str(ROOT / "configs/data/synthetic.yaml"),
        "--data.init_args.folder", str(data),
        "--trainer.default_root_dir", str(folder),
        "--model.init_args.tokenizer", str(tokenizer),
        "--model.init_args.tuning.r", "4",
        "--trainer.max_steps", "4",
        "--trainer.val_check_interval", "2",
        *SMALL, *more,
    ]  # fmt: skip


def recognizer_arguments(data: Path, folder: Path, network: str, *more: str) -> list[str]:
    return [
        "fit",
        "--config", str(ROOT / "configs/recognizer.yaml"),
        *(() if network == "convolution" else ("--config", str(ROOT / f"configs/recognizer/{network}.yaml"))),
        "--config", str(ROOT / "configs/data/synthetic.yaml"),
        "--data.init_args.folder", str(data),
        "--trainer.default_root_dir", str(folder),
        *(() if network == "nearest" else ("--trainer.max_steps", "6", "--trainer.val_check_interval", "3")),
        *SMALL, *more,
    ]  # fmt: skip


def run(arguments: list[str]) -> None:
    assert main(arguments) == 0


def write_recognizer(folder: Path, llm: str = "built-in", **preprocess) -> Path:
    """A recogniser that nobody trained."""
    torch.manual_seed(0)
    base, tuning = LanguageModel(llm), Tuning(r=2)
    vqvae = VQVAE(VQVAEConfig(width=8, depth=1, num_codes=8), layout="ntu25", num_persons=2, dim=base.width)
    tokenizer = ActionTokenizer(vqvae, Preprocess(**preprocess), {"dataset": {"name": "synthetic"}})
    wording = Wording(base.tokenizer(), CLASS_NAMES, Prompt())
    network = LLMRecognizer(tuning.apply(base.load()), wording, Inputs(map=True))
    Recognizer(tokenizer, network).save_pretrained(folder, base, tuning, Prompt())
    return folder
