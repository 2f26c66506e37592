import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skeleton_llm.skeletons.readers import ntu_class_names, ntu_missing, read_clip, read_ntu, read_nw_ucla

BODY = 72057594037931101
OTHER = 72057594037931107  # equal to BODY as float64


def ntu_text(frames: list[dict[int, np.ndarray]], end: str = "\r\n") -> str:
    """A raw NTU file from joints [25, 3] by body id, frame by frame."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for identity, joints in bodies.items():
            lines += [f"{identity} 0 1 1 1 1 0 0.02 -0.1 2", "25"]
            lines += [" ".join(map(repr, joint.tolist())) + " 1 2 3 4 0 0 0 0 2" for joint in joints]
    return end.join(lines) + end


def person(seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(25, 3)) * scale).astype(np.float32).astype(float)


def test_ntu_clip_with_two_bodies_whose_ids_differ_in_the_last_digits(tmp_path):
    frames = [{BODY: person(t), OTHER: person(50 + t) * 3} for t in range(4)]
    path = tmp_path / "S001C002P003R002A050.skeleton"
    path.write_text(ntu_text(frames))
    clip = read_ntu(path)
    assert clip.joints.shape == (4, 2, 25, 3)
    np.testing.assert_array_equal(
        clip.joints[:, 0], np.stack([f[OTHER] for f in frames]).astype(np.float32)
    )  # moves more
    np.testing.assert_array_equal(clip.joints[:, 1], np.stack([f[BODY] for f in frames]).astype(np.float32))
    assert (clip.label, clip.subject, clip.view, clip.setup, clip.replication) == (49, 3, 2, 1, 2)


def test_ntu_drops_empty_frames_and_leaves_an_absent_second_body_zero(tmp_path):
    path = tmp_path / "a.skeleton"
    path.write_text(ntu_text([{}, {BODY: person(1)}, {}, {BODY: person(2)}], end="\n"))
    clip = read_ntu(path)
    assert len(clip.joints) == 2
    assert not clip.joints[:, 1].any()


def test_ntu_clip_of_one_frame_is_legal(tmp_path):
    path = tmp_path / "a.skeleton"
    path.write_text(ntu_text([{BODY: person(1)}]))
    assert len(read_ntu(path).joints) == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999), data=st.data())
def test_truncated_or_altered_ntu_files_read_or_say_file_and_reason(tmp_path, cut, data):
    text = ntu_text([{BODY: person(1)}, {BODY: person(2), OTHER: person(3)}])
    broken = text[: int(cut * len(text))]
    if data.draw(st.booleans()) and broken:
        at = data.draw(st.integers(0, len(broken) - 1))
        broken = broken[:at] + data.draw(st.sampled_from(["x", "-", "9" * 20, "nan", ""])) + broken[at + 1 :]
    path = tmp_path / "b.skeleton"
    path.write_text(broken)
    complaint = ""
    try:
        assert np.isfinite(read_ntu(path).joints).all()
    except ValueError as error:
        complaint = str(error)
    assert complaint == "" or "b.skeleton" in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: expected the number of frames, found the end"),
        ("2\n1\n1 0 1 1 1 1 0 0 0 2\n24\n", "line 4: expected 25 joints, found 24"),
        ("1\n0\n", "no body in any frame"),
        ("<html>", "line 1: expected the number of frames, found '<html>'"),
    ],
)
def test_bad_ntu_files_are_named_with_line_and_reason(tmp_path, text, reason):
    path = tmp_path / "c.skeleton"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"c\.skeleton.*{reason}"):
        read_ntu(path)


def ucla(path: Path, frames, label: int = 4, **more) -> Path:
    path.write_text(json.dumps({"file_name": path.stem, "skeletons": frames, "label": label, **more}))
    return path


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_nw_ucla_gives_the_numbers_of_the_file(tmp_path, frames, seed):
    joints = np.random.default_rng(seed).normal(size=(frames, 20, 3)).astype(np.float32)
    clip = read_nw_ucla(ucla(tmp_path / "a04_s07_e03_v02.json", joints.tolist()))
    np.testing.assert_array_equal(clip.joints[:, 0], joints)
    assert (clip.label, clip.subject, clip.replication, clip.view) == (3, 7, 3, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_other_json_is_refused_in_one_sentence(tmp_path, value):
    path = tmp_path / "a01_s01_e00_v01.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="a01_s01_e00_v01"):
        read_nw_ucla(path)


def test_bad_nw_ucla_files_are_named_with_the_reason(tmp_path):
    good = np.zeros((2, 20, 3)).tolist()
    with pytest.raises(ValueError, match=r"a07_s01_e00_v01\.json: unknown class; NW-UCLA has the actions a01"):
        read_nw_ucla(ucla(tmp_path / "a07_s01_e00_v01.json", good))
    with pytest.raises(ValueError, match="its name says class 1, its label 4"):
        read_nw_ucla(ucla(tmp_path / "a01_s01_e00_v01.json", good))
    bad = np.zeros((2, 20, 3))
    bad[1, 5, 0] = np.nan
    with pytest.raises(ValueError, match="frame 1, person 0, joint 5 is NaN"):
        read_nw_ucla(ucla(tmp_path / "a04_s01_e00_v01.json", bad.tolist()))
    with pytest.raises(ValueError, match="expected frames of 20 joints"):
        read_nw_ucla(ucla(tmp_path / "a04_s01_e01_v01.json", np.zeros((2, 19, 3)).tolist()))
    empty = tmp_path / "a04_s01_e02_v01.json"
    empty.write_text("")
    with pytest.raises(ValueError, match="the file is empty"):
        read_nw_ucla(empty)


def test_npy_files_of_one_or_more_persons_and_wrong_ones(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((4, 25, 3)))
    np.save(tmp_path / "two.npy", np.ones((4, 2, 20, 3)))
    assert read_clip(tmp_path / "one.npy").joints.shape == (4, 1, 25, 3)
    assert read_clip(tmp_path / "two.npy").layout == "kinect20"
    np.save(tmp_path / "bad.npy", np.ones((4, 17, 3)))
    with pytest.raises(ValueError, match=r"bad\.npy: 17 joints fit no known layout"):
        read_clip(tmp_path / "bad.npy")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"object\.npy: not a whole NumPy file"):
        read_clip(tmp_path / "object.npy")


def test_unknown_suffix_and_missing_file(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"unknown format '\.txt'"):
        read_clip(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_clip(tmp_path / "b.npy")


def test_published_lists_have_their_lengths():
    assert len(ntu_missing()) == 535
    assert len(ntu_class_names()) == 120
    assert sum(int(name[1:4]) <= 17 for name in ntu_missing()) == 302


def test_real_nw_ucla_has_its_1484_clips(shared):
    paths = sorted((shared / "data" / "nw-ucla" / "all_sqe").glob("*.json"))
    clips = [read_nw_ucla(path) for path in paths]
    assert len(clips) == 1484
    assert min(len(clip.joints) for clip in clips) == 1
    assert {clip.label for clip in clips} == set(range(10))
