import warnings

import numpy as np
import pytest

import mutants
from mutants import HOSTILE, TARGETS

# targets of one reader share its 350 mutants; make fuzz N=2000 for more
SEVERAL = {"ntu": 1, "ntu in zip": 2, "pyskl": 2, "pku": 3, "own": 4, "any": 2}


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_are_read_rightly_or_refused_in_one_sentence(name, tmp_path):
    for seed in TARGETS[name].seeds:
        assert mutants.check(name, seed, tmp_path) == "read"
    count = 350 // SEVERAL.get(name, SEVERAL.get(name.split(" ", maxsplit=1)[0].split("_")[0], 1))
    tally = mutants.fuzz(name, count, 0, tmp_path)
    assert not tally.failures, "\n".join(tally.failures[:5])
    assert tally.read + tally.refused == count
    assert min(tally.read, tally.refused) > 0.05 * count  # damage that always or never shows would test nothing


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_file_made_to_do_harm_is_refused(hostile, tmp_path):
    name, content = HOSTILE[hostile]
    data = content()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mutants.check(name, data, tmp_path) == "refused"


@pytest.mark.parametrize("name", TARGETS)
def test_a_folder_in_a_files_place_is_refused(name, tmp_path):
    path = tmp_path / TARGETS[name].file
    path.mkdir()
    assert mutants.check_path(name, path) == "refused"


def test_mutations_repeat_with_their_seed_and_differ_without():
    data = TARGETS["ntu"].seeds[0]
    first, again = ([mutants.mutate(data, np.random.default_rng(seed)) for seed in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40
