import json
import shutil

import numpy as np
import pytest

import raw_clips
from datamodules import SkeletonDataModule
from skeleton_llm.cli.main import main
from skeleton_llm.skeletons import PreparedDataset


def nw_ucla(folder, views=(1, 2, 3)):
    folder.mkdir()
    joints = np.random.default_rng(0).normal(size=(3, 20, 3)).round(3).tolist()
    for action in (1, 2, 3):
        for view in views:
            path = folder / f"a{action:02d}_s01_e00_v{view:02d}.json"
            path.write_text(json.dumps({"file_name": path.stem, "skeletons": joints, "label": action}))
    return folder


def test_partial_dataset_is_refused_with_what_is_missing_and_taken_at_the_users_word(tmp_path, capsys):
    raw, out = nw_ucla(tmp_path / "raw", views=(1, 3)), tmp_path / "out"
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "nw_ucla_xview must have 1,020 / 464 training and test clips, found 3 / 3" in error
    assert "missing: 'pick up with one hand' from view 1: 1 of 53; " in error
    assert not out.exists()
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--partial"]) == 0
    assert "nw_ucla_xview: 3 training clips (left out: 0 listed, 0 bad), 3 test clips" in capsys.readouterr().out
    assert len(PreparedDataset.open(out)) == 6


def test_good_files_are_finished_and_bad_ones_listed(tmp_path, capsys):
    raw, out = nw_ucla(tmp_path / "raw"), tmp_path / "out"
    (raw / "a01_s01_e01_v01.json").write_text('{"skeletons": [[[1, 2')
    (raw / "a01_s01_e02_v01.json").write_text("")
    arguments = ["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--partial"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "2 bad" in said.out
    assert "a01_s01_e01_v01.json: not whole JSON" in said.err
    assert "a01_s01_e02_v01.json line 1: the file is empty" in said.err
    data = PreparedDataset.open(out)
    assert len(data) == 9
    assert {entry["file"] for entry in data.info["left_out"]} == {"a01_s01_e01_v01.json", "a01_s01_e02_v01.json"}
    assert main([*arguments, "--allow-bad"]) == 0


def test_bad_files_that_explain_a_short_split_are_accepted_at_the_users_word(shared, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(shared / "data/nw-ucla/all_sqe", raw, copy_function=shutil.copyfile)
    (raw / "a01_s01_e00_v01.json").write_text("[")
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out)]) == 1
    assert "1,019 training clips (left out: 0 listed, 1 bad), 464 test clips" in capsys.readouterr().out
    with pytest.raises(ValueError, match="found 1,019 / 464"):
        SkeletonDataModule(str(out), "nw_ucla_xview")
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--allow-bad"]) == 0
    assert len(SkeletonDataModule(str(out), "nw_ucla_xview").rows["test"]) == 464
    data = SkeletonDataModule(str(out), "nw_ucla_inner")
    assert [len(rows) for rows in data.rows.values()] == [458, 57, 504]
    (raw / "a05_s01_e00_v03.json").unlink()
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--allow-bad"]) == 1
    assert (
        "missing: 'pick up with one hand' from view 1: 52 of 53; 'sit down' from view 3: 46 of 47"
        in capsys.readouterr().err
    )


def test_nothing_but_an_old_dataset_is_ever_replaced(tmp_path, capsys):
    raw = nw_ucla(tmp_path / "raw")
    before = sorted(raw.iterdir())
    for out, reason in ((raw, "holds other files"), (raw / "in", "lies inside --raw"), (before[0], "is a file")):
        assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--partial"]) == 1
        assert reason in capsys.readouterr().err
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nw_ucla"], "needs its raw files"),
        (["nw_ucla", "--raw", "/does/not/exist"], "no such folder"),
        (["ntu60", "--raw", "{empty}"], "holds no raw clip of ntu60; expected SsssCcccPpppRrrrAaaa.skeleton files"),
    ],
)
def test_missing_raw_files(tmp_path, capsys, arguments, reason):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert main(["prepare", *filled, "--out", str(tmp_path / "out")]) == 1
    assert reason in capsys.readouterr().err


def test_ntu_files_on_the_missing_list_are_left_out_as_such(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    body = "\n".join(["1", "1", "1 0 1 1 1 1 0 0 0 2", "25", *["0.1 0.2 0.3 0 0 0 0 0 0 0 0 2"] * 25]) + "\n"
    for name in ("S001C002P005R002A008", "S001C001P001R001A001"):  # the first is on the official list
        (raw / f"{name}.skeleton").write_text(body)
    assert main(["prepare", "ntu60", "--raw", str(raw), "--out", str(tmp_path / "out"), "--partial"]) == 0
    assert "left out: 1 on the list of missing skeletons, 0 bad" in capsys.readouterr().out
    assert len(PreparedDataset.open(tmp_path / "out")) == 1


def test_a_class_beyond_the_dataset_is_bad(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    body = "\n".join(["1", "1", "1 0 1 1 1 1 0 0 0 2", "25", *["0.1 0.2 0.3 0 0 0 0 0 0 0 0 2"] * 25]) + "\n"
    (raw / "S001C001P001R001A061.skeleton").write_text(body)
    (raw / "S001C001P001R001A001.skeleton").write_text(body)
    assert main(["prepare", "ntu60", "--raw", str(raw), "--out", str(tmp_path / "out"), "--partial"]) == 1
    assert "A061.skeleton: unknown class 61; expected 1 to 60" in capsys.readouterr().err


def test_synthetic_dataset_is_made_whole(tmp_path, capsys):
    assert main(["prepare", "synthetic", "--out", str(tmp_path / "out")]) == 0
    assert "synthetic_xsub: 1,680 training clips, 720 test clips" in capsys.readouterr().out


def test_real_utd_mhad_is_whole_and_a_missing_file_is_named(shared, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(shared / "data/utd-mhad", raw, copy_function=shutil.copyfile)
    assert main(["prepare", "utd_mhad", "--raw", str(raw), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "utd_mhad_xsub: 431 training clips (left out: 0 listed, 0 bad), 430 test clips" in said
    published, inner = (line for line in said.splitlines() if "_xsub: " in line or "_inner: " in line)
    assert published.endswith("430 test clips (left out: 0 listed, 0 bad), as published")
    assert inner.endswith(
        "108 test clips (left out: 0 listed, 0 bad), as counted in the training half of utd_mhad_xsub"
    )
    next(raw.rglob("a7_s3_t2_skeleton.mat")).unlink()
    assert main(["prepare", "utd_mhad", "--raw", str(raw), "--out", str(out)]) == 1
    assert "431 / 430 training and test clips, found 430 / 430" in (error := capsys.readouterr().err)
    assert "missing: a7_s3_t2_skeleton.mat" in error
    assert len(PreparedDataset.open(out)) == 861  # the old one is still there


def test_a_partial_ntu_names_what_is_missing_of_its_grid(tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for camera in (1, 2, 3):
        (raw / f"S001C{camera:03d}P001R001A001.skeleton").write_text(raw_clips.ntu_text())
    arguments = ["prepare", "ntu60", "--raw", str(raw), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "ntu60_xsub must have 40,091 / 16,487 training and test clips, found 3 / 0" in error
    assert "157 of 158 setup-performer pairs of S001 to S017 without any clip (56,520)" in error
    assert "S001C001P001R001A002; S001C001P001R001A003" in error
    assert main([*arguments, "--partial"]) == 0
    said = capsys.readouterr().out
    assert "missing: 157 of 158 setup-performer pairs" in said
    with pytest.raises(ValueError, match="found 3 / 0"):
        SkeletonDataModule(str(tmp_path / "out"), "ntu60_xsub")


def test_the_actor_convention_is_a_key_and_is_kept(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "S001C001P001R001A050.skeleton").write_text(raw_clips.ntu_text(14))
    clips = {}
    for actors in ("ctrgcn", "prenormalize3d"):
        out = tmp_path / actors
        arguments = ["prepare", "ntu60", "--raw", str(raw), "--out", str(out), "--partial", "--actors", actors]
        assert main(arguments) == 0
        data = PreparedDataset.open(out)
        assert data.info["actors"] == actors
        clips[actors] = data.clip(0)
    assert clips["ctrgcn"].joints.shape == clips["prenormalize3d"].joints.shape
    assert abs(clips["ctrgcn"].joints - clips["prenormalize3d"].joints).max() > 0.1
    assert data.info["class_ids"][49] == "A050"
    assert data.info["class_names"][49] == "punching or slapping other person"


def test_a_full_disk_is_told_before_anything_is_read(tmp_path, capsys, monkeypatch):
    raw = nw_ucla(tmp_path / "raw")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(tmp_path / "out"), "--partial"]) == 1
    assert "GB free, 9 clips need about" in capsys.readouterr().err
