import os
from pathlib import Path

import numpy as np
import pytest
import torch

from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)  # two test processes with two threads each wait for one another on two cores
ROOT = Path(__file__).parents[1]
_LONGEST = ("test_pipeline.py", "test_on_slurm.py", "test_torture.py")


@pytest.hookimpl(trylast=True)  # behind the choice of slow ones
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first, each in a process of its own: at the end one would wait minutes for them."""
    longest = [item for item in items if item.path.name in _LONGEST and item.get_closest_marker("slow")]
    rest = [item for item in items if item not in longest]
    for place, item in enumerate(longest):
        rest.insert(-(-place * len(items) // len(longest)), item)
    items[:] = rest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real skeletons and models for development; the tests that need them skip where they are absent."""
    folder = Path(os.environ.get("SKELETON_LLM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder} (SKELETON_LLM_SHARED)")
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """Four synthetic subjects (the third is a test subject), two performances of each action, three cameras."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    write_dataset(
        folder,
        synthetic_clips(subjects=4),
        name="synthetic",
        layout="ntu25",
        class_names=CLASS_NAMES,
        num_persons=2,
        source="synthetic",
    )
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
