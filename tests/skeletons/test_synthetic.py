import numpy as np
import pytest

from skeleton_llm.skeletons import LAYOUTS, Preprocess
from skeleton_llm.skeletons.protocols import SYNTHETIC_TEST
from skeleton_llm.skeletons.synthetic import ACTIONS, CLASS_NAMES, example_clip, synthetic_clips


@pytest.fixture(scope="module")
def clips():
    return list(synthetic_clips())


def test_twenty_subjects_three_cameras_and_enough_actions(clips):
    assert {clip.subject for clip in clips} == set(range(1, 21))
    assert {clip.view for clip in clips} == {1, 2, 3}
    assert len(set(CLASS_NAMES)) >= 12
    assert sum(action.people == 2 for action in ACTIONS) >= 2
    assert sum(action.reversed for action in ACTIONS) >= 2
    counts = np.bincount([clip.label for clip in clips])
    assert counts.min() == counts.max() == 120


def test_the_same_seed_gives_the_same_bytes_and_a_part_equals_that_part(clips):
    again = list(synthetic_clips(subjects=2, replications=2))
    whole = {clip.source: clip for clip in clips}
    assert len(again) == 2 * 2 * 3 * len(ACTIONS)
    assert all(np.array_equal(whole[clip.source].joints, clip.joints) for clip in again)


def test_bodies_have_human_size_and_a_second_person_only_where_the_action_needs_one(clips):
    layout = LAYOUTS["ntu25"]
    head, feet = layout.joints.index("head"), [layout.joints.index(f"{side} ankle") for side in ("left", "right")]
    for clip in clips[::37]:
        assert np.isfinite(clip.joints).all()
        height = np.median(clip.joints[:, 0, head, 1] - clip.joints[:, 0][:, feet, 1].min(-1))
        assert 0.5 < height < 2.2
        assert clip.joints[:, 1].any() == (ACTIONS[clip.label].people == 2)


def test_subjects_differ_in_their_bones(clips):
    layout = LAYOUTS["ntu25"]
    knee, ankle = layout.joints.index("left knee"), layout.joints.index("left ankle")
    shin = {s: [] for s in range(1, 21)}
    for clip in clips:
        shin[clip.subject].append(
            np.median(np.linalg.norm(clip.joints[:, 0, knee] - clip.joints[:, 0, ankle], axis=-1))
        )
    means = np.array([np.mean(values) for values in shin.values()])
    assert means.std() > 0.01


@pytest.mark.parametrize("align", ["none", "yaw"])
def test_nearest_centroid_on_mean_poses_fails(clips, align):
    labels, subjects = np.array([c.label for c in clips]), np.array([c.subject for c in clips])
    test = np.isin(subjects, SYNTHETIC_TEST)
    placed = np.stack([Preprocess(align=align).apply(clip)[0][0].numpy() for clip in clips])  # [clips, T, M, V, 3]
    body = placed - placed[:, :, :, :1]
    for mean in (placed.mean(1), body.mean(1)):
        flat = mean.reshape(len(clips), -1)
        scaled = flat / (flat[~test].std(0) + 1e-3)
        for x in (flat, scaled):
            centres = np.stack([x[~test & (labels == k)].mean(0) for k in range(len(CLASS_NAMES))])
            answer = ((x[test][:, None] - centres) ** 2).sum(-1).argmin(1)
            assert (answer == labels[test]).mean() < 0.6


def test_example_clip_is_recorded_anew():
    clip = example_clip()
    assert clip.joints.shape[1:] == (2, 25, 3)
    assert clip.subject in SYNTHETIC_TEST
