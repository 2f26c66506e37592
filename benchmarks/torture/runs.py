"""What is run: both stages of the shipped configs, cut down to seconds."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import yaml

from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips

ROOT = Path(__file__).parents[2]
_DRAWINGS = ("CodeMeaning", "CodebookMap", "TokenSheets", "Reconstructions", "AnswerReport")
"""Half of a small run's time, and nothing of them is in a checkpoint."""
STEPS, EVERY = 6, 2
STATEFUL = (
    "--model.init_args.network.codebook=ema",
    "--model.init_args.revive_every=2",
    "--model.init_args.zipf_momentum=0.8",
    "--data.init_args.preprocess.length=window",
)
EIGHT_BITS = ("--model.init_args.tuning.mode=qlora", "--model.init_args.optimization.optimizer=adamw_8bit")


@dataclass(frozen=True)
class Variant:
    """One way to run a stage.

    Args:
        stage: 1 or 2.
        ranks: processes that train together.
        accumulate: batches to an optimiser step.
        heavy: with more to remember: averages and revivals in stage 1, a base in 4 bits and an optimiser in 8 in 2.
        workers: that read for each rank; the numbers do not depend on them.
    """

    stage: int
    ranks: int = 1
    accumulate: int = 1
    heavy: bool = False
    workers: int = 0

    def __str__(self) -> str:
        names = (
            f"stage {self.stage}",
            f"{self.ranks} ranks",
            f"accumulation {self.accumulate}",
            f"{self.workers} workers",
        )
        return ", ".join(names) + (", heavy" if self.heavy else "")

    @property
    def untouched(self) -> "Variant":
        """The run to compare with."""
        return replace(self, workers=0)

    @property
    def name(self) -> str:
        """For a folder."""
        return "-".join(str(int(value)) for value in asdict(self).values())


def draw(rng: Random) -> Variant:
    """Any of them."""
    return Variant(
        stage=rng.choice((1, 2)),
        ranks=rng.choice((1, 2)),
        accumulate=rng.choice((1, 3)),
        heavy=rng.random() < 0.5,
        workers=rng.choice((0, 2)),
    )


def prepare(folder: Path) -> None:
    """The dataset and the configs that all runs share."""
    write_dataset(
        folder / "data",
        synthetic_clips(subjects=4, replications=1),
        name="synthetic",
        layout="ntu25",
        class_names=CLASS_NAMES,
        num_persons=2,
        source="synthetic",
    )
    for stage in ("stage1", "stage2"):
        config = yaml.safe_load((ROOT / f"configs/{stage}.yaml").read_text())
        trainer = config["trainer"]
        callbacks = {one["class_path"].rsplit(".", 1)[-1]: one for one in trainer["callbacks"]}
        callbacks["Checkpoints"]["init_args"]["every"] = EVERY
        callbacks["Watchdog"]["init_args"] = {"dead_after": 20.0}  # a lost rank costs so long
        trainer["callbacks"] = [one for name, one in callbacks.items() if name not in _DRAWINGS]
        trainer["log_every_n_steps"] = 1
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def arguments(variant: Variant, base: Path, folder: Path) -> list[str]:
    """The command of a run in ``folder``; ``base`` was prepared."""
    batches = STEPS * variant.accumulate
    options = {
        "config": str(base / f"stage{variant.stage}.yaml"),
        "trainer.default_root_dir": str(folder),
        "data.init_args.folder": str(base / "data"),
        "data.init_args.batch_size": "8",
        "data.init_args.num_workers": str(variant.workers),
        "trainer.enable_progress_bar": "false",
        "trainer.max_steps": str(STEPS),
        "trainer.accumulate_grad_batches": str(variant.accumulate),
        "trainer.val_check_interval": str(batches // 2),
        "trainer.devices": str(variant.ranks),
    }
    if variant.ranks > 1:
        options["trainer.strategy"] = "ddp"
    if variant.stage == 1:
        options |= {
            "model.init_args.network.width": "16",
            "model.init_args.network.num_codes": "32",
            "model.init_args.network.tokens_per_step": "1",
            "model.init_args.quantize_after": "2",
            "model.init_args.sample_clips": "32",
        }
    else:
        options |= {
            "model.init_args.tokenizer": str(base / Variant(1).name / "tokenizer"),
            "model.init_args.tuning.r": "4",
            "model.init_args.generate": "false",
        }
    given = ["fit", "--config", options.pop("config"), "--config", str(ROOT / "configs/data/synthetic.yaml")]
    given += [part for name, value in options.items() for part in (f"--{name}", value)]
    return [*given, *((STATEFUL if variant.stage == 1 else EIGHT_BITS) if variant.heavy else ())]
