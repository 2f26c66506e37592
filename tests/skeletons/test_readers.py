import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raw_clips
from raw_clips import BODY, OTHER, kinect_text, person
from skeleton_llm.skeletons.readers import ntu_class_names, ntu_missing, read_clip, read_ntu, read_nw_ucla
from skeleton_llm.skeletons.readers.kinect_text import read_bodies, read_slowly, scan
from skeleton_llm.skeletons.readers.pku_mmd import find_splits, read_labels, read_split
from skeleton_llm.skeletons.readers.uav_human import read_uav_human

SHARED_TMP = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_ntu_bodies_whose_ids_differ_in_the_last_digits_stay_apart(tmp_path):
    frames = [{BODY: person(t), OTHER: person(50 + t) * 3} for t in range(14)]
    path = tmp_path / "S001C002P003R002A050.skeleton"
    path.write_text(kinect_text(frames))
    first, second = read_bodies(path.read_bytes(), "x")
    np.testing.assert_array_equal(first.joints, np.stack([f[BODY] for f in frames]).astype(np.float32))
    np.testing.assert_array_equal(second.joints, np.stack([f[OTHER] for f in frames]).astype(np.float32))
    clip = read_ntu(path)
    origin = frames[0][OTHER][1]  # the one that moves more comes first, its spine middle becomes the origin
    np.testing.assert_allclose(clip.joints[:, 0], np.stack([f[OTHER] for f in frames]) - origin, atol=1e-5)
    np.testing.assert_allclose(clip.joints[:, 1], np.stack([f[BODY] for f in frames]) - origin, atol=1e-5)
    assert (clip.label, clip.subject, clip.view, clip.setup, clip.replication) == (49, 3, 2, 1, 2)


def test_ntu_drops_empty_frames_and_leaves_an_absent_second_body_zero(tmp_path):
    path = tmp_path / "a.skeleton"
    path.write_text(kinect_text([{}, {BODY: person(1)}, {}, {BODY: person(2)}], end="\n"))
    clip = read_ntu(path)
    assert clip.joints.shape == (2, 2, 25, 3)
    assert not clip.joints[:, 1].any()


def test_ntu_clip_of_one_frame_is_legal(tmp_path):
    path = tmp_path / "a.skeleton"
    path.write_text(kinect_text([{BODY: person(1)}]))
    assert len(read_ntu(path).joints) == 1


def test_ntu_straight_from_a_zip_is_the_file_itself(tmp_path):
    text = raw_clips.ntu_text(14).encode()
    entry = "nturgb+d_skeletons/S001C002P003R002A050.skeleton"
    (tmp_path / "part.zip").write_bytes(raw_clips.zipped({entry: text}))
    (tmp_path / "S001C002P003R002A050.skeleton").write_bytes(text)
    zipped = read_clip(f"{tmp_path / 'part.zip'}#{entry}")
    np.testing.assert_array_equal(zipped.joints, read_ntu(tmp_path / "S001C002P003R002A050.skeleton").joints)
    assert zipped.label == 49
    with pytest.raises(FileNotFoundError, match=r"part\.zip has no such entry"):
        read_clip(f"{tmp_path / 'part.zip'}#other.skeleton")
    with pytest.raises(ValueError, match="holds many files; name one of them"):
        read_clip(tmp_path / "part.zip")


def test_an_entry_that_grows_beyond_all_bounds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S001C001P001R001A001.skeleton", b"0" * 50_000_000)
    with pytest.raises(ValueError, match=r"unpacks to over [\d,]+ bytes from"):
        read_clip(f"{tmp_path / 'bomb.zip'}#S001C001P001R001A001.skeleton")


NUMBER = st.one_of(
    st.floats(-50, 50, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([0.0, -0.0, 1e-30, -1e-38, 98765.4]),
)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(NUMBER, min_size=6, max_size=6), form=st.sampled_from(["r", ".7g", ".3f", ".9e", ".18f", "+.4g"])
)
def test_the_fast_scan_agrees_with_pythons_float_to_the_last_bit(numbers, form):
    said = [repr(number) if form == "r" else format(number, form) for number in numbers]
    joints = [f"{' '.join(said[:3])} 1 2 3 4 0 0 0 0 2", f"{' '.join(said[3:])} 1 2 3 4 0 0 0 0 2"]
    text = "\r\n".join(["1", "1", f"{BODY} 0 1 1 1 1 0 0.02 -0.1 2", "2", *joints]).encode() + b"\r\n"
    expected = np.array([float(number) for number in said], dtype=np.float32).reshape(1, 2, 3)
    np.testing.assert_array_equal(read_slowly(text, 2, 12, "x").joints, expected)
    fast = scan(text, 2, 12)
    assert fast is not None or form != ".3f"  # more digits than one rounding allows are left to the slow reader
    if fast is not None:
        np.testing.assert_array_equal(fast.joints, expected)
        np.testing.assert_array_equal(np.signbit(fast.joints), np.signbit(expected))
        assert fast.ids.tolist() == [BODY]


@SHARED_TMP
@given(cut=st.floats(0, 0.999), data=st.data())
def test_truncated_or_altered_ntu_files_read_or_say_file_and_reason(tmp_path, cut, data):
    text = kinect_text([{BODY: person(1)}, {BODY: person(2), OTHER: person(3)}])
    broken = text[: int(cut * len(text))]
    if data.draw(st.booleans()) and broken:
        at = data.draw(st.integers(0, len(broken) - 1))
        broken = broken[:at] + data.draw(st.sampled_from(["x", "-", "9" * 20, "nan", ""])) + broken[at + 1 :]
    path = tmp_path / "b.skeleton"
    path.write_text(broken)
    with pytest.raises(ValueError, match=r"b\.skeleton") as refusal:  # whatever is cut off, frames are missing
        read_ntu(path)
    assert "\n" not in str(refusal.value)


TWIN = "7 0 1 1 1 1 0 0 0 2\n25\n" + ("0 0 1" + " 0" * 9 + "\n") * 25


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: the file is empty"),
        ("2\n1\n1 0 1 1 1 1 0 0 0 2\n24\n", "line 4: expected 25 joints, found 24"),
        ("1\n0\n", "no body in any frame"),
        ("<html>", "line 1: expected the number of frames, found '<html>'"),
        ("1\n1\n1 0 1 1 1 1 0 0 0 2\n25\n0 0 0 1\n", r"line 5: expected a joint's 12 fields, got 4"),
        ("0\n0\n", "line 2: expected the end after 0 frames, found more"),
        ("999999999\n0\n", r"line 1: expected the number of frames, found '999999999'"),
        ("1\n2\n" + TWIN + TWIN, "body 7 occurs twice in one frame"),
    ],
)
def test_bad_ntu_files_are_named_with_line_and_reason(tmp_path, text, reason):
    path = tmp_path / "c.skeleton"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"c\.skeleton.*{reason}"):
        read_ntu(path)


def ucla(path, frames, label=4, **more):
    path.write_text(json.dumps({"file_name": path.stem, "skeletons": frames, "label": label, **more}))
    return path


@settings(parent=SHARED_TMP, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_nw_ucla_gives_the_numbers_of_the_file(tmp_path, frames, seed):
    joints = np.random.default_rng(seed).normal(size=(frames, 20, 3)).astype(np.float32)
    clip = read_nw_ucla(ucla(tmp_path / "a04_s07_e03_v02.json", joints.tolist()))
    np.testing.assert_array_equal(clip.joints[:, 0], joints)
    assert (clip.label, clip.subject, clip.replication, clip.view) == (3, 7, 3, 2)


@SHARED_TMP
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_other_json_is_refused_in_one_sentence(tmp_path, value):
    path = tmp_path / "a01_s01_e00_v01.json"
    path.write_text(json.dumps(value))
    for reader in (read_nw_ucla, read_clip):
        with pytest.raises(ValueError, match="a01_s01_e00_v01"):
            reader(path)


def test_bad_nw_ucla_files_are_named_with_the_reason(tmp_path):
    good = np.zeros((2, 20, 3)).tolist()
    with pytest.raises(ValueError, match=r"a07_s01_e00_v01\.json: unknown class; NW-UCLA has the actions a01"):
        read_nw_ucla(ucla(tmp_path / "a07_s01_e00_v01.json", good))
    with pytest.raises(ValueError, match="its name says class 1, its label 4"):
        read_nw_ucla(ucla(tmp_path / "a01_s01_e00_v01.json", good))
    bad = np.zeros((2, 20, 3))
    bad[1, 5, 0] = np.nan
    with pytest.raises(ValueError, match=r"the number at \[1, 5, 0\] is nan"):
        read_nw_ucla(ucla(tmp_path / "a04_s01_e00_v01.json", bad.tolist()))
    bad[1, 5, 0] = 1700
    with pytest.raises(ValueError, match=r"frame 1, person 0, joint 5 lies at 1700, expected at most 100 \(metres\?\)"):
        read_nw_ucla(ucla(tmp_path / "a04_s01_e00_v01.json", bad.tolist()))
    with pytest.raises(ValueError, match="expected frames of 20 joints"):
        read_nw_ucla(ucla(tmp_path / "a04_s01_e01_v01.json", np.zeros((2, 19, 3)).tolist()))
    empty = tmp_path / "a04_s01_e02_v01.json"
    empty.write_text("")
    with pytest.raises(ValueError, match="the file is empty"):
        read_nw_ucla(empty)


def test_utd_mhad_agrees_with_scipy_and_puts_the_joints_into_kinects_order(tmp_path):
    from scipy.io import loadmat, savemat

    matrix = np.stack([person(t, 20) for t in range(5)], axis=2)
    for packed in (False, True):
        path = tmp_path / "a27_s8_t4_skeleton.mat"
        savemat(path, {"other": np.arange(3), "d_skel": matrix}, do_compression=packed)
        clip = read_clip(path)
        expected = loadmat(path)["d_skel"]
        np.testing.assert_array_equal(clip.joints[:, 0, 3], expected[0].T.astype(np.float32))  # head
        np.testing.assert_array_equal(clip.joints[:, 0, 0], expected[3].T.astype(np.float32))  # hip centre
        np.testing.assert_array_equal(clip.joints[:, 0, 4:], np.moveaxis(expected, 2, 0)[:, 4:].astype(np.float32))
        assert (clip.label, clip.subject, clip.replication) == (26, 8, 4)
    path.write_bytes(raw_clips.utd_mat())
    np.testing.assert_array_equal(loadmat(path)["d_skel"][..., 0], person(0, 20))
    savemat(path, {"d_skel": np.ones((20, 3))})  # MATLAB drops the last axis of one frame
    assert read_clip(path).joints.shape == (1, 1, 20, 3)
    path.write_bytes(raw_clips.matlab(np.zeros((20, 3, 700_000))))
    with pytest.raises(ValueError, match=r"a27_s8_t4_skeleton\.mat: a damaged MATLAB file \(it unpacks to over"):
        read_clip(path)
    savemat(path, {"d_skel": np.ones((19, 3, 2))})
    with pytest.raises(ValueError, match="expected d_skel with 20 joints"):
        read_clip(path)


def test_utd_mhad_whole_dataset(shared):
    files = sorted((shared / "data/utd-mhad/Skeleton").glob("*.mat"))
    assert len(files) == 861
    from scipy.io import loadmat

    for path in files[::40]:
        expected = np.moveaxis(loadmat(path)["d_skel"], 2, 0).astype(np.float32)
        np.testing.assert_array_equal(read_clip(path).joints[:, 0, 4:], expected[:, 4:])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [4, 60])
def test_pyskl_3d_arrays_are_those_of_pickle(tmp_path, protocol, length):
    path = tmp_path / "ntu60_3danno.pkl"
    path.write_bytes(raw_clips.pyskl(protocol=protocol, length=length))
    raw = pickle.loads(path.read_bytes())["annotations"][1]  # ours
    clip = read_clip(f"{path}#S001C002P001R001A002")
    joints = raw["keypoint"].astype(np.float32)  # [2, T, 25, 3]
    one, two = (0, 1) if joints[0].reshape(-1, 3).var(0).sum() > joints[1].reshape(-1, 3).var(0).sum() else (1, 0)
    if length == 60:
        np.testing.assert_allclose(clip.joints[:, 0], joints[one] - joints[one, 0, 1], atol=1e-5)
        np.testing.assert_allclose(clip.joints[:, 1], joints[two] - joints[one, 0, 1], atol=1e-5)
    assert (clip.label, clip.view, clip.subject) == (1, 2, 1)
    with pytest.raises(ValueError, match=r"holds 3 clips \(S001C001P001R001A001, .*name one of them"):
        read_clip(path)


def test_pyskl_2d_poses_are_halves_of_the_images_width_with_their_confidence(tmp_path):
    path = tmp_path / "ntu60_hrnet.pkl"
    path.write_bytes(raw_clips.pyskl(flat=True))
    raw = pickle.loads(path.read_bytes())["annotations"][2]
    clip = read_clip(f"{path}#S001C002P003R001A050")
    assert clip.layout == "coco17_2d"
    pixel, score = raw["keypoint"][0, 1, 5].astype(float), float(raw["keypoint_score"][0, 1, 5])
    expected = [(1920 / 2 - pixel[0]) / 960, (1080 / 2 - pixel[1]) / 960, score]
    np.testing.assert_allclose(clip.joints[1, 0, 5], expected, rtol=1e-5)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_asks_for_more_than_arrays_is_refused_and_not_obeyed(tmp_path, protocol):
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(trace)!r}, 'w')",)

    for load in (Evil(), {"annotations": [Evil()]}, np.array([Evil()], dtype=object)):
        path.write_bytes(pickle.dumps(load, protocol=protocol))
        with pytest.raises(ValueError, match=r"evil\.pkl: it .* \(byte \d+\); only arrays and plain containers"):
            read_clip(f"{path}#x")
        assert not trace.exists()
    path.write_bytes(raw_clips.pyskl()[:-30])
    with pytest.raises(ValueError, match=r"evil\.pkl: not a whole pickle"):
        read_clip(f"{path}#x")


@pytest.mark.parametrize("packed", [False, True])
def test_ctrgcn_rows_without_their_padding(tmp_path, packed):
    path = tmp_path / "NTU60_CS.npz"
    path.write_bytes(raw_clips.ctrgcn(packed=packed))
    arrays = np.load(path)
    clip = read_clip(f"{path}#x_train/1")
    assert clip.joints.shape == (5, 2, 25, 3)
    np.testing.assert_array_equal(clip.joints.reshape(5, 150), arrays["x_train"][1, :5])
    assert clip.label == arrays["y_train"][1].argmax()
    with pytest.raises(ValueError, match="holds x_train/0 to 2, x_test/0 to 1; name one of them"):
        read_clip(f"{path}#x_test/2")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"NTU60_CS\.npz: x_train\.npy is damaged"):
        read_clip(f"{path}#x_train/1")


def test_smarthome_completes_13_joints_to_17(tmp_path):
    x, y = np.arange(13) * 10.0 + 100, np.arange(13) * 5.0 + 200
    pose = {"pose2d": [*x.tolist(), *y.tolist()], "pose3d": []}
    path = tmp_path / "Cook.Cut_p03_r01_v02_c04.json"
    path.write_text(json.dumps({"njts": 13, "frames": [[], [pose], [pose]]}))
    clip = read_clip(path)
    assert clip.joints.shape == (2, 1, 17, 3)
    assert (clip.label, clip.subject, clip.view, clip.layout) == (2, 3, 4, "lcr17_2d")

    def place(px, py):  # halves of the width, +x to the left, +y up
        return [(320 - px) / 320, (240 - py) / 320, 1]

    head, left, right = (220, 260), (210, 255), (200, 250)  # LCR's joints 12, 11 and 10
    neck = (205, 252.5)
    hips = ((140 + 150) / 2, (220 + 225) / 2)
    expected = {0: head, 5: left, 6: right, 2: neck, 4: hips, 1: np.add(head, neck) / 2, 3: np.add(neck, hips) / 2}
    for joint, pixel in expected.items():
        np.testing.assert_allclose(clip.joints[0, 0, joint], place(*pixel), rtol=1e-5, err_msg=str(joint))
    np.testing.assert_allclose(clip.joints[0, 0, 16], place(100, 200), rtol=1e-5)  # right ankle, LCR's joint 0
    pose["pose2d"] = pose["pose2d"][:-1]
    path.write_text(json.dumps({"frames": [[pose]]}))
    with pytest.raises(ValueError, match="frame 0, person 0: expected pose2d with 26 numbers"):
        read_clip(path)


def test_uav_human_text_with_17_joints(tmp_path):
    path = tmp_path / f"{raw_clips.UAV_NAME}.txt"
    path.write_text(kinect_text([{}, {3: person(1, 17)}, {3: person(2, 17), 4: person(3, 17) * 9}]))
    clip = read_clip(path)
    assert clip.layout == "coco17"
    assert (clip.label, clip.subject, clip.setup, clip.replication) == (31, 7, 1, 0)
    np.testing.assert_array_equal(clip.joints[1, 0], person(3, 17).astype(np.float32) * 9)  # most energy first
    np.testing.assert_array_equal(clip.joints[:, 1], np.stack([person(1, 17), person(2, 17)]).astype(np.float32))
    path.write_text(kinect_text([{3: person(1, 25)}]))
    with pytest.raises(ValueError, match="line 4: expected 17 joints, found 25"):
        read_uav_human(path)


def test_pku_mmd_labels_splits_and_cuts(tmp_path):
    raw = raw_clips.pku_folder(tmp_path)
    assert [tuple(action) for action in read_labels(raw / "Train_Label/0002-L.txt")] == [(4, 0, 3, 1), (50, 1, 6, 2)]
    splits = find_splits(raw, 1)
    assert splits["pku_mmd1_xsub"] == {"0002-L": 0, "0002-M": 0, "0003-L": 1, "0003-R": 1}
    assert splits["pku_mmd1_xview"] == {"0002-L": 1, "0002-M": 0, "0003-L": 1, "0003-R": 0}
    assert read_clip(raw / "Skeletons/0002-L.txt").joints.shape == (6, 2, 25, 3)
    label = tmp_path / "l.txt"
    for text, reason in (
        ("5,1,3\n5;1;2\n", "line 2: expected class,start,end"),
        ("52,1,2,1\n", "line 1: expected a class from 1 to 51"),
        ("5,3,2,1\n", "line 1: expected a class from 1 to 51 and 1 <= start <= end"),
    ):
        label.write_text(text)
        with pytest.raises(ValueError, match=rf"l\.txt {reason}"):
            read_labels(label)
    label.write_text("Training:\n0002-L, 0003-L\nTesting:\n0003-L\n")
    with pytest.raises(ValueError, match="found 0003-L in both"):
        read_split(label)
    recording = raw / "Skeletons/0002-L.txt"
    recording.write_text(recording.read_text().replace(" ", " x", 1))
    with pytest.raises(ValueError, match=r"0002-L\.txt line 1: could not convert"):
        read_clip(recording)


def test_own_files_of_three_formats_agree_and_wrong_ones_are_named(tmp_path):
    joints = np.stack([person(t, 20) for t in range(3)]).astype(np.float32)
    (tmp_path / "a.npy").write_bytes(raw_clips.npy(joints))
    (tmp_path / "a.json").write_text(json.dumps(joints.tolist()))
    (tmp_path / "a.csv").write_text(raw_clips.own_csv())
    for name in ("a.npy", "a.json", "a.csv"):
        clip = read_clip(tmp_path / name)
        assert clip.layout == "kinect20"
        np.testing.assert_array_equal(clip.joints[:, 0], joints)
    np.save(tmp_path / "b.npy", np.ones((4, 2, 25, 3)))
    assert read_clip(tmp_path / "b.npy").layout == "ntu25"
    np.save(tmp_path / "c.npy", np.ones((4, 21, 3)))
    with pytest.raises(ValueError, match=r"21 joints, expected 25 \(ntu25\) or 20 \(kinect20\)"):
        read_clip(tmp_path / "c.npy")
    (tmp_path / "c.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"c\.npy: not a whole NumPy file"):
        read_clip(tmp_path / "c.npy")
    for text in (
        ",".join(map(str, range(60))) + "\n" + raw_clips.own_csv().split("\n", 1)[1],  # numbered columns
        raw_clips.own_csv().replace(",", ";"),
    ):
        (tmp_path / "e.csv").write_text(text)
        np.testing.assert_array_equal(read_clip(tmp_path / "e.csv").joints[:, 0], joints)
    (tmp_path / "e.csv").write_text(";".join(["0,25"] * 60))
    with pytest.raises(ValueError, match=r"e\.csv.*line 1: expected numbers|holds no frame"):
        read_clip(tmp_path / "e.csv")
    for text, reason in (("1,2\n", "a line has 2 numbers"), ("x\n1,nan\n", "line 2: holds a number that is NaN")):
        (tmp_path / "d.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"d\.csv.*{reason}"):
            read_clip(tmp_path / "d.csv")


def test_unknown_suffix_and_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_clip(tmp_path / "x.skeleton")
    (tmp_path / "x.bvh").write_text("")
    with pytest.raises(ValueError, match=r"unknown format '\.bvh'"):
        read_clip(tmp_path / "x.bvh")


def test_ntu_names_and_missing_lists():
    assert len(ntu_class_names(60)) == 60
    assert len(set(ntu_class_names())) == 120
    missing = ntu_missing()
    assert len(missing) == 535
    assert sum(int(name[1:4]) <= 17 for name in missing) == 302


def test_real_nw_ucla_has_its_1484_clips(shared):
    paths = sorted((shared / "data" / "nw-ucla" / "all_sqe").glob("*.json"))
    clips = [read_nw_ucla(path) for path in paths]
    assert len(clips) == 1484
    assert min(len(clip.joints) for clip in clips) == 1
    assert {clip.label for clip in clips} == set(range(10))
