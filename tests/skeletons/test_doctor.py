import json
import shutil

import numpy as np
import pytest

import raw_clips
from skeleton_llm.cli.main import main
from skeleton_llm.skeletons.doctor import examine_prepared, examine_raw, guess_dataset


def own(tmp_path):
    raw, out = raw_clips.own_folder(tmp_path / "raw"), tmp_path / "out"
    assert main(["prepare", "own", "--raw", str(raw), "--out", str(out)]) == 0
    return raw, out


def test_a_raw_folder_and_what_prepare_makes_of_it_have_one_content(tmp_path):
    raw, out = own(tmp_path)
    before, after = examine_raw(raw, "own"), examine_prepared(out)
    assert before.content_hash == after.content_hash
    assert (before.clips, before.frames) == (after.clips, after.frames) == (12, 36)
    assert before.healthy
    assert after.healthy
    assert before.classes["sit down"] == {"all": 6, "training": 3, "test": 3}
    assert [split.protocol for split in after.splits] == ["own"]


def test_damaged_files_are_named_with_their_line_and_counted(tmp_path, capsys):
    raw, _ = own(tmp_path)
    (raw / "wave" / "s1_a.csv").write_text(raw_clips.own_csv() + "1,2,three\n")
    capsys.readouterr()
    (raw / "wave" / "s3_b.json").write_text("[[[1, nan, 2]]]")
    (raw / "wave" / "s4_a.csv").write_text("")
    (raw / "wave" / "s5_c.npy").write_bytes(raw_clips.npy(np.full((2, 20, 3), np.nan)))
    (raw / "wave" / "s6_c.npy").write_bytes(raw_clips.npy(np.ones((2, 19, 3))))
    assert main(["doctor", str(raw), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    why = {entry["file"]: entry["why"] for entry in report["bad"]}
    assert sorted(why) == ["wave/s1_a.csv", "wave/s3_b.json", "wave/s4_a.csv", "wave/s5_c.npy", "wave/s6_c.npy"]
    assert "s1_a.csv line 5: expected numbers, found '1,2,three'" in why["wave/s1_a.csv"]
    assert "s3_b.json: not whole JSON" in why["wave/s3_b.json"]
    assert "holds no frame" in why["wave/s4_a.csv"]
    assert "nan" in why["wave/s5_c.npy"]
    assert "19 joints, expected 20 (kinect20)" in why["wave/s6_c.npy"]
    assert report["problems"] == ["5 files cannot be used; mend them or fetch them again"]
    assert main(["doctor", str(raw)]) == 1
    said = capsys.readouterr().out
    assert "wrong: 5 files cannot be used" in said
    assert "bad: " in said


def test_duplicates_are_noted_and_leaks_into_the_test_half_counted(tmp_path, capsys):
    raw, _ = own(tmp_path)
    shutil.copy(raw / "wave" / "s1_c.npy", raw / "sit_down" / "s2_d.npy")
    assert main(["doctor", str(raw)]) == 0
    said = capsys.readouterr().out
    assert "the same joints: sit_down/s2_d.npy, wave/s1_c.npy" in said
    assert "note: own: 1 test clips have the very joints of a training clip" in said
    assert "healthy" in said


def test_a_flipped_byte_in_a_prepared_dataset_names_the_clip(tmp_path, capsys):
    _, out = own(tmp_path)
    data = bytearray((out / "frames.npy").read_bytes())
    data[128 + 4 * 2 * 20 * 3 * 4 + 5] ^= 1  # in the fifth frame, so in the second clip
    (out / "frames.npy").write_bytes(data)
    assert main(["doctor", str(out)]) == 1
    assert "wrong: sit_down/s1_b.json: its frames are not those that were prepared" in capsys.readouterr().out
    text = (out / "clips.json").read_text()
    (out / "clips.json").write_text(text.replace('"own"', '"own "') if '"own"' in text else text + " ")
    assert main(["doctor", str(out), "--json"]) == 1
    assert any("clips.json is not the one" in problem for problem in json.loads(capsys.readouterr().out)["problems"])


def test_a_half_written_folder_is_called_so(tmp_path, capsys):
    _, out = own(tmp_path)
    (out / "dataset.json").unlink()
    capsys.readouterr()
    assert main(["doctor", str(out), "--json"]) == 1
    said = capsys.readouterr()
    assert "dataset.json is missing" in said.err
    assert json.loads(said.out)["healthy"] is False


def test_real_nw_ucla_is_whole_and_repeats_itself_across_the_split(shared):
    report = examine_raw(
        shared / "data" / "nw-ucla" / "all_sqe", guess_dataset(shared / "data" / "nw-ucla" / "all_sqe")
    )
    assert report.healthy
    assert report.splits[0].training.clips == 1020
    assert "nw_ucla_xview: 95 test clips have the very joints of a training clip" in report.notices
    inner = report.splits[1]
    assert (inner.protocol, inner.training.clips, inner.test.clips) == ("nw_ucla_inner", 516, 504)
    assert inner.published is None
    assert not any(notice.startswith("nw_ucla_inner") for notice in report.notices)


@pytest.mark.parametrize(
    ("names", "dataset"),
    [
        (["S001C001P001R001A060.skeleton"], "ntu60"),
        (["S001C001P001R001A060.skeleton", "S018C001P001R001A061.skeleton"], "ntu120"),
        (["a1_s1_t1_skeleton.mat"], "utd_mhad"),
        (["a01_s01_e00_v01.json"], "nw_ucla"),
        (["Cook.Cut_p03_r01_v02_c04.json"], "smarthome"),
        ([f"{raw_clips.UAV_NAME}.txt"], "uav_human"),
        (["Split/cross-subject.txt", "x/0002-L.txt"], "pku_mmd1"),
        (["Split/cross_subject_v2.txt", "x/A01N01-L.txt"], "pku_mmd2"),
        (["dataset.yaml", "a.npy"], "own"),
        (["ntu120_hrnet.pkl"], "ntu120"),
        (["NTU60_CS.npz"], "ntu60"),
    ],
)
def test_names_tell_the_dataset(tmp_path, names, dataset):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert guess_dataset(tmp_path) == dataset


def test_unknown_files_ask_for_the_dataset(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("x")
    assert main(["doctor", str(tmp_path)]) == 1
    assert "say which it is with --dataset" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "nothing")]) == 1
    assert "no such folder or file" in capsys.readouterr().err


def test_a_part_accepted_as_such_is_healthy_and_noted(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "a04_s07_e03_v02.json").write_text(raw_clips.ucla_json())
    assert main(["prepare", "nw_ucla", "--raw", str(raw), "--out", str(out), "--partial"]) == 0
    assert main(["doctor", str(out)]) == 0
    assert "note: prepared with --partial: nw_ucla_xview must have 1,020 / 464" in capsys.readouterr().out
    info = json.loads((out / "dataset.json").read_text())
    assert info["partial"].pop("nw_ucla_inner")
    assert info["partial"]["nw_ucla_xview"]
    (out / "dataset.json").write_text(json.dumps(info))  # as before there were inner protocols
    assert main(["doctor", str(out)]) == 0
