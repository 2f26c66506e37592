import json

import numpy as np
import pytest

import raw_clips
from skeleton_llm.skeletons import LAYOUTS
from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.reading import read_all
from skeleton_llm.skeletons.sources import SOURCES, find_clips


def read(dataset, raw, **more):
    source = SOURCES[dataset]
    found = find_clips(source, raw, **more)
    batches = list(read_all(found.items, source.unusable(), len(found.classes)))
    return found, [c for batch in batches for c in batch.clips], [e for batch in batches for e in batch.left_out]


def test_every_dataset_has_phrases_beside_its_ids():
    for dataset, size in (("ntu", 120), ("nw_ucla", 10), ("utd_mhad", 27), ("smarthome", 31), ("uav_human", 155),
                          ("pku_mmd", 51)):  # fmt: skip
        names = class_names(dataset)
        assert len(names) == size
        assert len(set(names.values())) == size, dataset
        assert all(name == name.strip() and "_" not in name and "." not in name for name in names.values())
    assert class_names("smarthome")["Drink.Frombottle"] == "drink from a bottle"
    assert class_names("nw_ucla")["a08"] == "put on clothes"


def test_ntu_folder_zip_and_their_clips_are_one(tmp_path):
    names = ["S001C001P001R001A001", "S001C002P001R001A050"]
    files = {f"{name}.skeleton": raw_clips.ntu_text(14, seed=i).encode() for i, name in enumerate(names)}
    (tmp_path / "loose" / "deep").mkdir(parents=True)
    for name, data in files.items():
        (tmp_path / "loose" / "deep" / name).write_bytes(data)
    (tmp_path / "packed").mkdir()
    inside = {f"nturgb+d_skeletons/{name}": data for name, data in files.items()}
    (tmp_path / "packed" / "nturgbd_skeletons_s001_to_s017.zip").write_bytes(raw_clips.zipped(inside))
    loose, packed = read("ntu60", tmp_path / "loose")[1], read("ntu60", tmp_path / "packed")[1]
    assert [clip.source for clip in loose] == [clip.source for clip in packed] == list(files)
    for one, other in zip(loose, packed, strict=True):
        np.testing.assert_array_equal(one.joints, other.joints)
    (tmp_path / "loose" / "ntu60_3danno.pkl").write_bytes(raw_clips.pyskl())
    with pytest.raises(
        ValueError, match=r"holds \.skeleton and \.pkl files of NTU; give the one to read as --raw FILE"
    ):
        find_clips(SOURCES["ntu60"], tmp_path / "loose")


def test_pyskl_and_ctrgcn_bring_their_halves(tmp_path):
    path = tmp_path / "ntu60_3danno.pkl"
    path.write_bytes(raw_clips.pyskl())
    found, clips, _ = read("ntu60", path, actors="prenormalize3d")
    assert (found.layout, found.form) == ("ntu25", "PYSKL 3D annotations")
    assert [clip.splits for clip in clips][2] == {"ntu60_xsub": 1, "ntu60_xview": 0}
    path.write_bytes(raw_clips.pyskl(flat=True))
    assert read("ntu60", path)[0].layout == "coco17_2d"
    path = tmp_path / "NTU60_CV.npz"
    path.write_bytes(raw_clips.ctrgcn())
    found, clips, _ = read("ntu60", path)
    assert [clip.splits["ntu60_xview"] for clip in clips] == [0, 0, 0, 1, 1]
    assert clips[0].subject is None
    with pytest.raises(ValueError, match="its actors were chosen and placed by CTR-GCN already"):
        find_clips(SOURCES["ntu60"], path, actors="prenormalize3d")
    path.rename(tmp_path / "data.npz")
    with pytest.raises(ValueError, match="the name tells no protocol; expected NTU60_CS"):
        find_clips(SOURCES["ntu60"], tmp_path / "data.npz")


def test_pku_mmd_recordings_are_cut_by_their_labels(tmp_path):
    for phase in (1, 2):
        raw = raw_clips.pku_folder(tmp_path / str(phase), phase=phase)
        (raw / "Skeletons" / "0003-R.txt").unlink()
        _, clips, left_out = read(f"pku_mmd{phase}", raw)
        assert [len(clip.joints) for clip in clips] == [3, 5] * 3
        assert [clip.label for clip in clips] == [4, 50] * 3
        assert clips[2].source == "0002-M/001"
        assert clips[4].splits == {f"pku_mmd{phase}_xsub": 1, f"pku_mmd{phase}_xview": 1}
        assert (clips[0].view, clips[2].view, clips[0].setup) == (1, 2, 2)
        assert [entry["file"] for entry in left_out] == ["0003-R"]
        assert "0003-R has no skeleton file" in left_out[0]["why"]
        whole = np.array(raw_clips.pku_text().split(), dtype=np.float32).reshape(6, 2, 25, 3)
        expected = whole[:3, 0] - whole[0, 0, 1]
        np.testing.assert_allclose(clips[0].joints[:, 0], expected, atol=1e-5)
    (raw / "Split" / "cross_view_v2.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"cross_view_v2\.txt is missing; it comes with the data"):
        find_clips(SOURCES["pku_mmd2"], raw)


def test_own_folder_with_its_description(tmp_path):
    raw = raw_clips.own_folder(tmp_path)
    found, clips, left_out = read("own", raw)
    assert not left_out
    assert found.classes == {"0": "wave", "1": "sit down"}
    assert len(clips) == 12
    assert [clip.splits["own"] for clip in clips if clip.subject == 2] == [1] * 6
    assert {clip.label for clip in clips if clip.source.startswith("sit_down/")} == {1}
    (raw / "wave" / "stranger.csv").write_text(raw_clips.own_csv())
    left_out = read("own", raw)[2]
    assert "wave/stranger.csv: does not fit the labels pattern" in left_out[0]["why"]


def test_own_layout_units_and_upward_axis(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    layout = {
        "name": "stick figure",
        "joints": ["hip", "left hip", "right hip", "left shoulder", "right shoulder"],
        "bones": [["left hip", "hip"], ["right hip", "hip"], [3, "hip"], [4, "hip"]],
        "root": "hip", "left_hip": "left hip", "right_hip": "right hip",
        "left_shoulder": "left shoulder", "right_shoulder": "right shoulder",
    }  # fmt: skip
    description = {"layout": layout, "classes": ["up", "down"], "labels": {"u*": "up", "d*": "down"}}
    description |= {"test": ["*2.json"], "units": "mm", "up": "z"}
    (raw / "dataset.yaml").write_text(json.dumps(description))  # JSON is YAML
    for name in ("u1", "u2", "d1", "d2"):
        (raw / f"{name}.json").write_text(json.dumps([[[0, 100, 900], [1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]]]))
    found, clips, _ = read("own", raw)
    assert found.layout == "stick figure"
    np.testing.assert_allclose(clips[0].joints[0, 0, 0], [0, 0.9, -0.1], atol=1e-6)
    assert [clip.splits["own"] for clip in clips] == [0, 1, 0, 1]
    assert LAYOUTS["stick figure"].mirror == (0, 2, 1, 4, 3)
    for number in range(400):
        (raw / f"u{number}_1.json").write_text((raw / "u1.json").read_text())
    found = find_clips(SOURCES["own"], raw)
    batches = list(read_all(found.items, frozenset(), 2, workers=2))  # processes that never opened the YAML
    assert sum(len(batch.clips) for batch in batches) == 404
    del LAYOUTS["stick figure"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("layout: kinect99", "unknown skeleton layout 'kinect99'"),
        ("labels: '(?P<name>x)'", r"the pattern needs a group \(\?P<label>"),
        ("units: inch", "units is m, cm or mm"),
        ("colour: red", "has the unknown key colour"),
        ("test: {}", "test: expected lists of numbers under subject"),
        ("classes: [wave]", "classes: expected a list of at least two"),
        ("classes: [wave", "not YAML"),
        ("classes: [yes, no]", "classes: expected a list of names; YAML takes yes"),
        ("test: ['" + 200 * "[a" + 200 * "b]" + "']", "has more than 500 characters"),
        ("persons: many", "persons: expected a number"),
    ],
)
def test_a_wrong_description_is_named_by_its_key(tmp_path, change, reason):
    raw = raw_clips.own_folder(tmp_path)
    key = change.split(":")[0]
    lines = [line for line in raw_clips.OWN_YAML.splitlines() if not line.startswith(key + ":")]
    (raw / "dataset.yaml").write_text("\n".join([*lines, change]))
    with pytest.raises(ValueError, match=rf"dataset\.yaml: .*{reason}"):
        find_clips(SOURCES["own"], raw)


def test_a_name_that_occurs_twice_is_left_out_once(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "S001C001P001R001A001.skeleton").write_text(raw_clips.ntu_text())
    _, clips, left_out = read("ntu60", tmp_path)
    assert len(clips) == len(left_out) == 1
    assert "occurred before; keep one of the two" in left_out[0]["why"]


def test_many_files_are_read_by_processes_in_their_order(tmp_path):
    for number in range(450):
        name = f"a{1 + number % 3:02d}_s01_e{number:03d}_v01"
        (tmp_path / f"{name}.json").write_text(raw_clips.ucla_json(name, label=1 + number % 3))
    found = find_clips(SOURCES["nw_ucla"], tmp_path)
    done = []
    many = list(read_all(found.items, frozenset(), 10, workers=2, progress=done.append))
    alone = list(read_all(found.items, frozenset(), 10, workers=1))
    assert sum(done) == 450
    assert [c.source for b in many for c in b.clips] == [c.source for b in alone for c in b.clips]
    assert [item.name for item in found.items] == sorted(item.name for item in found.items)


def test_an_empty_folder_and_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder; expected aAA_sSS_eEE_vVV\.json files in it"):
        find_clips(SOURCES["nw_ucla"], tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="holds no raw clip of utd_mhad; expected aA_sS_tT_skeleton"):
        find_clips(SOURCES["utd_mhad"], tmp_path)
