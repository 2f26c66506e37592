import numpy as np
import pytest

from skeleton_llm.skeletons import PROTOCOLS, carve_validation, check_published, find_protocol


def table(**columns):
    return {name: np.asarray(values) for name, values in columns.items()}


def test_ntu60_cross_subject_has_twenty_and_twenty_subjects():
    train, test = PROTOCOLS["ntu60_xsub"].split(table(subject=range(1, 41)))
    assert len(train) == len(test) == 20
    assert set(test + 1) == {3, 6, 7, 10, 11, 12, 20, 21, 22, 23, 24, 26, 29, 30, 32, 33, 36, 37, 39, 40}


def test_ntu120_cross_subject_trains_53_of_106_and_cross_setup_on_even_setups():
    train, _ = PROTOCOLS["ntu120_xsub"].split(table(subject=range(1, 107)))
    assert len(train) == 53
    train, _ = PROTOCOLS["ntu120_xset"].split(table(setup=range(1, 33)))
    assert (train + 1).tolist() == list(range(2, 33, 2))


def test_cross_view_protocols():
    views = table(view=[1, 2, 3, 1, 2, 3])
    assert PROTOCOLS["nw_ucla_xview"].split(views)[1].tolist() == [2, 5]
    assert PROTOCOLS["ntu60_xview"].split(views)[1].tolist() == [0, 3]


def test_wrong_split_sizes_say_both_numbers_and_the_way_out():
    with pytest.raises(ValueError, match=r"1,020 / 464 .* found 1,019 / 464; .*--partial"):
        check_published(PROTOCOLS["nw_ucla_xview"], 1019, 464)
    check_published(PROTOCOLS["nw_ucla_xview"], 1020, 464)


def test_protocol_of_another_dataset_is_refused():
    with pytest.raises(
        ValueError, match="'ntu60_xsub' does not fit the dataset 'nw_ucla'; expected one of nw_ucla_xview"
    ):
        find_protocol("ntu60_xsub", "nw_ucla")


def test_validation_takes_whole_subjects_from_training_alone():
    subjects = np.repeat(np.arange(10), 7)
    train, test = np.flatnonzero(subjects < 8), np.flatnonzero(subjects >= 8)
    rest, val = carve_validation(table(subject=subjects), train, 0.1, seed=0)
    assert not set(subjects[rest]) & set(subjects[val])
    assert not set(val) & set(test)
    assert sorted([*rest, *val]) == train.tolist()
    assert len(val) >= 0.1 * len(train)
    again = carve_validation(table(subject=subjects), train, 0.1, seed=0)
    assert again[1].tolist() == val.tolist()


def test_validation_fraction_is_checked():
    with pytest.raises(ValueError, match=r"between 0 and 0\.5, got 0\.9"):
        carve_validation(table(subject=[1, 2]), np.array([0, 1]), 0.9, seed=0)
    with pytest.raises(ValueError, match="at least 2 training subjects, found 1"):
        carve_validation(table(subject=[1, 1]), np.array([0, 1]), 0.1, seed=0)
