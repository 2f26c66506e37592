"""One answer, however the skeletons are given and however many are answered with them."""

import numpy as np
import pytest
import torch

from skeleton_llm import Recognizer
from skeleton_llm.skeletons import Clip
from skeleton_llm.skeletons.synthetic import synthetic_clips
from small_runs import write_recognizer


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    return Recognizer.from_pretrained(write_recognizer(tmp_path_factory.mktemp("recognizer"), length="whole"))


@pytest.fixture(scope="module")
def clips():
    """Ten clips of several lengths."""
    return [clip for number, clip in enumerate(synthetic_clips(subjects=1)) if number % 13 == 0][:10]


def same(one, two):
    assert (one.name, one.sentence, one.said) == (two.name, two.sentence, two.said)
    assert [name for name, _ in one.top] == [name for name, _ in two.top]
    np.testing.assert_allclose([p for _, p in one.top], [p for _, p in two.top], rtol=1e-4)


def test_no_answer_depends_on_the_batch(recognizer, clips):
    assert len({len(clip.joints) for clip in clips}) > 3
    alone = [recognizer.recognize(clip, free=True) for clip in clips]
    assert len({answer.name for answer in alone}) > 1
    for batch_size in (1, 3, 10):
        together = recognizer.recognize(clips, batch_size=batch_size, free=True)
        for one, two in zip(alone, together, strict=True):
            same(one, two)
    joints = torch.from_numpy(clips[3].joints)[None]
    probability = recognizer.probabilities(*recognizer.tokenizer.batch([Clip(joints[0].numpy(), "ntu25")]))[0]
    assert alone[3].top[0][1] == pytest.approx(float(probability.max()), rel=1e-5)
    assert [name for name, _ in alone[3].top] == [
        recognizer.network.class_names[i] for i in probability.argsort(descending=True)[:5].tolist()
    ]


def test_every_form_of_a_clip_has_the_same_answer(recognizer, clips, tmp_path):
    joints = clips[0].joints
    np.save(tmp_path / "a.npy", joints)
    expected = recognizer.recognize(clips[0])
    assert expected.said is None
    for given in (tmp_path / "a.npy", str(tmp_path / "a.npy"), joints, torch.from_numpy(joints)):
        same(recognizer.recognize(given), expected)
    for given in ([joints], [tmp_path / "a.npy"], (clips[0],), joints[None], torch.from_numpy(joints)[None]):
        (answer,) = recognizer.recognize(given)
        same(answer, expected)
    same(recognizer.recognize(joints[:, 0]), recognizer.recognize(joints[:, :1]))
    several = recognizer.recognize([clips[1], joints, str(tmp_path / "a.npy")], batch_size=2)
    same(several[0], recognizer.recognize(clips[1]))
    same(several[1], expected)
    same(several[2], expected)
    assert recognizer.recognize([]) == []


def test_other_skeletons_are_refused(recognizer, tmp_path):
    kinect = Clip(np.ones((4, 1, 20, 3), dtype=np.float32), "kinect20", source="k")
    for given in (kinect, [kinect]):
        with pytest.raises(ValueError, match="k: has the layout kinect20, this tokenizer reads ntu25"):
            recognizer.recognize(given)
    with pytest.raises(ValueError, match=r"must have joints \[T, M, 25, 3\]"):
        recognizer.recognize(np.ones((4, 2, 20, 3)))
    with pytest.raises(FileNotFoundError, match="no such file"):
        recognizer.recognize(tmp_path / "none.npy")
