import numpy as np
import pytest

from skeleton_llm.skeletons import PROTOCOLS, carve_validation, check_published, find_protocol, unseen_classes
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.readers import ntu_facts, ntu_missing
from skeleton_llm.skeletons.readers.nw_ucla import _COUNTS
from skeleton_llm.skeletons.readers.utd_mhad import utd_mhad_expected, utd_mhad_facts


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


def published_clips():
    """For each dataset with an inner protocol who and what each published clip shows, without the clips."""
    views = np.repeat([1, 2, 3], np.sum(_COUNTS, axis=0))
    subjects = [utd_mhad_facts(name)["subject"] for name in utd_mhad_expected()]
    return {"nw_ucla": table(view=views), "utd_mhad": table(subject=subjects)}


INNER = [protocol for protocol in PROTOCOLS.values() if protocol.inner_of is not None]


@pytest.mark.parametrize("inner", INNER, ids=lambda protocol: protocol.name)
def test_an_inner_protocol_parts_the_whole_training_half_and_never_sees_the_published_test(inner):
    outer = PROTOCOLS[inner.inner_of]
    assert (outer.dataset, outer.inner_of) == (inner.dataset, None)
    clips = published_clips()[inner.dataset]
    train, test = inner.split(clips)
    outer_train, outer_test = outer.split(clips)
    assert sorted([*train, *test]) == outer_train.tolist()
    assert not {*train, *test} & {*outer_test}
    assert (len(train), len(test)) == inner.published
    assert (len(outer_train), len(outer_test)) == outer.published


def test_inner_protocols_keep_a_view_and_a_subject_for_their_test():
    assert [protocol.name for protocol in INNER] == ["nw_ucla_inner", "utd_mhad_inner"]
    train, test = INNER[0].split(table(view=[1, 2, 3]))
    assert (train.tolist(), test.tolist()) == ([0], [1])
    train, test = INNER[1].split(table(subject=range(1, 9)))
    assert ((train + 1).tolist(), (test + 1).tolist()) == ([1, 3, 5], [7])
    check_published(INNER[0], 516, 504)
    check_published(INNER[1], 323, 108)


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


@pytest.mark.parametrize(
    ("name", "captured", "published"),
    [  # clips before and after the lists of missing skeletons, from the papers and from every table since
        ("ntu60_xsub", (40320, 16560), (40091, 16487)),
        ("ntu60_xview", (37920, 18960), (37646, 18932)),
        ("ntu120_xsub", (63360, 51120), (63026, 50919)),
        ("ntu120_xset", (54720, 59760), (54468, 59477)),
    ],
)
def test_the_missing_lists_explain_the_published_sizes_of_both_halves(name, captured, published):
    listed = [ntu_facts(sample) for sample in ntu_missing()]
    if name.startswith("ntu60"):
        listed = [facts for facts in listed if facts["label"] < 60]
    columns = table(**{key: [facts[key] for facts in listed] for key in ("subject", "view", "setup", "label")})
    missing = [len(half) for half in PROTOCOLS[name].split(columns)]
    assert [whole - left for whole, left in zip(captured, published, strict=True)] == missing
    assert PROTOCOLS[name].published == published


def test_smarthome_cross_view_counts_19_classes_and_cv2_trains_on_five_cameras():
    names = list(class_names("smarthome"))
    columns = table(
        view=[1, 1, 2, 3, 5, 7, 2], subject=[3, 5, 3, 5, 3, 3, 3],
        label=[names.index(n) for n in ("Walk", "WatchTV", "Walk", "Cutbread", "Walk", "Enter", "Cook.Cut")],
    )  # fmt: skip
    assert [rows.tolist() for rows in PROTOCOLS["smarthome_cs"].split(columns)] == [[0, 2, 4, 5, 6], [1, 3]]
    assert [rows.tolist() for rows in PROTOCOLS["smarthome_cv1"].split(columns)] == [[0], [2]]
    assert [rows.tolist() for rows in PROTOCOLS["smarthome_cv2"].split(columns)] == [[0, 3, 5], [2]]
    assert len(PROTOCOLS["smarthome_cv1"].classes) == 19
    assert names[PROTOCOLS["smarthome_cv1"].classes[16]] == "Usetablet"  # in the order of the protocol


def test_uav_human_tests_on_thirty_of_119_subjects():
    subjects = table(subject=range(119))
    for name, some in (("uav_human_csv1", {1, 3, 4, 113}), ("uav_human_csv2", {1, 2, 7, 116})):
        train, test = PROTOCOLS[name].split(subjects)
        assert (len(train), len(test)) == (89, 30)
        assert some <= set(test.tolist())


def test_halves_that_come_with_the_data_go_before_a_rule_and_leave_clips_out():
    columns = table(subject=[1, 3, 1], **{"test:ntu60_xsub": [1, 0, -1]})
    assert [rows.tolist() for rows in PROTOCOLS["ntu60_xsub"].split(columns)] == [[1], [0]]


def test_data_that_do_not_tell_what_a_rule_needs_are_refused():
    with pytest.raises(ValueError, match="ntu60_xview: these data do not tell the view of each clip"):
        PROTOCOLS["ntu60_xview"].split(table(view=[1, -1], subject=[1, 2]))
    with pytest.raises(ValueError, match="pku_mmd1_xsub: these data do not tell the split"):
        PROTOCOLS["pku_mmd1_xsub"].split(table(view=[1]))


def test_a_published_total_is_checked_too():
    with pytest.raises(ValueError, match="smarthome_cs must have 16,115 clips, found 9,000 / 7,114"):
        check_published(PROTOCOLS["smarthome_cs"], 9000, 7114)
    check_published(PROTOCOLS["smarthome_cs"], 9000, 7114, left_out={"smarthome_cs": [1, 0]})


def test_validation_without_subjects_takes_whole_recordings_and_else_the_last_rows_of_each_class():
    train = np.arange(12)
    setups = np.repeat(np.arange(4), 3)
    rest, val = carve_validation(table(subject=[-1] * 12, setup=setups), train, 0.2, seed=0)
    assert len(val) == 3
    assert not set(setups[rest]) & set(setups[val])
    labels = [0] * 5 + [1] * 6 + [2]
    rest, val = carve_validation(table(subject=[-1] * 12, setup=[-1] * 12, label=labels), train, 0.2, seed=0)
    assert val.tolist() == [4, 9, 10]  # of every class that can spare one


def test_zero_shot_splits_are_those_of_the_literature():
    assert unseen_classes("55/5", "ntu60", 60) == (10, 11, 19, 26, 56)
    for name, dataset, size in (("48/12", "ntu60", 12), ("110/10", "ntu120", 10), ("96/24", "ntu120", 24)):
        classes = unseen_classes(name, dataset, 120)
        assert len(set(classes)) == size
        assert list(classes) == sorted(classes)
        assert max(classes) < int(dataset[3:])
    with pytest.raises(
        ValueError, match=r"unknown zero-shot split '55/5' of ntu120; expected one of draw0 to draw4, 110/10"
    ):
        unseen_classes("55/5", "ntu120", 120)


def test_llm_ars_five_draws_of_three_classes_are_fixed():
    draws = [unseen_classes(f"draw{seed}", "ntu120", 120) for seed in range(5)]
    assert len(set(draws)) == 5
    assert all(len(set(draw)) == 3 and max(draw) < 120 for draw in draws)
    assert draws == [unseen_classes(f"draw{seed}", "ntu120", 120) for seed in range(5)]
    assert draws[0] == (61, 92, 111)  # written down in docs/datasets.md
    with pytest.raises(ValueError, match="draws 3 classes; own has 3"):
        unseen_classes("draw0", "own", 3)
