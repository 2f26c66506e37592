import numpy as np
import pytest

from skeleton_llm.skeletons import Clip, PreparedDataset, write_dataset

OPTIONS = {"name": "x", "layout": "kinect20", "class_names": ["a", "b"], "num_persons": 2, "source": "here"}


def clips():
    rng = np.random.default_rng(0)
    return [
        Clip(
            rng.normal(size=(frames, persons, 20, 3)).astype(np.float32),
            "kinect20",
            label,
            subject=frames,
            source=f"{frames}",
        )
        for frames, persons, label in ((1, 1, 0), (5, 2, 1), (3, 1, 1))
    ]


def test_clips_come_back_equal_padded_to_the_persons_of_the_dataset(tmp_path):
    info = write_dataset(tmp_path / "d", clips(), **OPTIONS)
    data = PreparedDataset.open(tmp_path / "d")
    assert len(data) == info["num_clips"] == 3
    for index, clip in enumerate(clips()):
        back = data.clip(index)
        np.testing.assert_array_equal(back.joints[:, : clip.joints.shape[1]], clip.joints)
        assert not back.joints[:, clip.joints.shape[1] :].any()
        assert (back.label, back.subject, back.view, back.source) == (clip.label, clip.subject, None, clip.source)


def test_same_clips_have_the_same_hash_and_other_ones_another(tmp_path):
    first = write_dataset(tmp_path / "a", clips(), **OPTIONS)
    second = write_dataset(tmp_path / "b", clips(), **OPTIONS)
    third = write_dataset(tmp_path / "c", clips()[:2], **OPTIONS)
    assert first["content_hash"] == second["content_hash"] != third["content_hash"]


def test_a_failure_leaves_the_old_folder_and_no_litter(tmp_path):
    write_dataset(tmp_path / "d", clips(), **OPTIONS)
    wrong = [*clips(), Clip(np.ones((2, 1, 25, 3), dtype=np.float32), "ntu25", 0, source="odd.skeleton")]
    with pytest.raises(ValueError, match=r"odd\.skeleton: has the layout ntu25, the dataset kinect20"):
        write_dataset(tmp_path / "d", wrong, **OPTIONS)
    assert len(PreparedDataset.open(tmp_path / "d")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_damaged_folders_are_named(tmp_path):
    folder = tmp_path / "d"
    for name, content in (("dataset.json", b""), ("clips.json", b"{}"), ("dataset.json", b"{}"), ("frames.npy", None)):
        write_dataset(folder, clips(), **OPTIONS)
        (folder / name).write_bytes(content if content is not None else (folder / name).read_bytes()[:-4000])
        with pytest.raises(ValueError, match=r"d: a damaged prepared dataset .*prepare it again"):
            PreparedDataset.open(folder)


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.tex"):
        write_dataset(tmp_path, clips(), **OPTIONS)
    assert (tmp_path / "thesis.tex").exists()


def test_unknown_class_and_no_clip_at_all(tmp_path):
    with pytest.raises(ValueError, match="unknown class 5; expected 0 to 1"):
        write_dataset(tmp_path / "d", [Clip(np.ones((1, 1, 20, 3), dtype=np.float32), "kinect20", 5)], **OPTIONS)
    with pytest.raises(ValueError, match="no clip could be read"):
        write_dataset(tmp_path / "d", [], **OPTIONS)


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.json is missing.*make prepare"):
        PreparedDataset.open(tmp_path)
