"""What the watchers of the shipped stage-1 config cost: their share of 250 training steps and one validation.

python -m benchmarks.observatory      (a couple of minutes)
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch.loops.fit_loop import _FitLoop

import callbacks
from skeleton_llm.cli.main import main as command
from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips

_CONFIGS = Path(__file__).parents[1] / "configs"
_WATCHERS = ("CodebookUsageMonitor", "CollapseAlarm", "CodeMeaning", "CodebookMap", "TokenSheets", "Reconstructions")
_HOOKS = ("on_train_batch_end", "on_validation_epoch_start", "on_validation_batch_end", "on_validation_epoch_end")
_STEPS = 250  # the shipped interval


def timed(owner: Any, hook: str, spent: dict[str, float], name: str) -> None:
    """Add the seconds that a method takes to ``spent[name]`` from now on."""
    method: Callable[..., Any] = getattr(owner, hook)

    @wraps(method)
    def clocked(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - begin

    setattr(owner, hook, clocked)


def main() -> None:
    """Print the share of each watcher; the codebook stands from step 25 on, so that all have something to draw."""
    spent: dict[str, float] = defaultdict(float)
    timed(_FitLoop, "run", spent, "run")
    for name in _WATCHERS:
        for hook in _HOOKS:
            kind = "steps" if hook == "on_train_batch_end" else "validation"
            timed(getattr(callbacks, name), hook, spent, f"{name}, {kind}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_dataset(
            data,
            synthetic_clips(),
            name="synthetic",
            layout="ntu25",
            class_names=CLASS_NAMES,
            num_persons=2,
            source="synthetic",
        )
        files = [str(_CONFIGS / f"{name}.yaml") for name in ("stage1", "data/synthetic")]
        configs = [part for file in files for part in ("--config", file)]
        run = ["--data.init_args.folder", str(data), "--trainer.default_root_dir", str(Path(folder) / "run")]
        short = ["--trainer.max_steps", str(_STEPS), "--model.init_args.quantize_after", "25"]
        if command(["fit", *configs, *run, *short, "--trainer.enable_progress_bar", "false"]):
            raise RuntimeError("the run failed")
    whole = spent.pop("run")
    print(f"{_STEPS} steps and one validation of configs/stage1.yaml: {whole:.1f} s")
    for name, seconds in sorted(spent.items(), key=lambda entry: -entry[1]):
        print(f"  {name:<40}{1000 * seconds:9.1f} ms{100 * seconds / whole:8.2f} %")
    print(f"  {'all watchers':<40}{1000 * sum(spent.values()):9.1f} ms{100 * sum(spent.values()) / whole:8.2f} %")


if __name__ == "__main__":
    main()
