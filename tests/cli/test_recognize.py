import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import raw_clips
import skeleton_llm
import tiny_llms
from skeleton_llm import Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.language import LanguageModel
from skeleton_llm.language.prompts import UNSEEN
from skeleton_llm.skeletons import PreparedDataset, find_protocol
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, example_clip
from small_runs import write_recognizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_recognizer(tmp_path_factory.mktemp("recognizer"))


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "a.npy", example_clip().joints)
    np.save(tmp_path / "one_frame.npy", example_clip().joints[:1, 0])
    (tmp_path / "bad.skeleton").write_text("nothing")
    return tmp_path


def test_answer_names_action_top5_and_sentence(model, files, capsys):
    assert main(["recognize", str(files / "a.npy"), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert any(name in out.splitlines()[0] for name in CLASS_NAMES)
    assert out.count("%") == 5
    assert "action sentence:" in out
    assert "in free words" not in out
    assert main(["recognize", str(files / "a.npy"), "--model", str(model), "--free"]) == 0
    assert "in free words: '" in capsys.readouterr().out


def test_json_holds_probabilities_that_agree_with_the_library(model, files, capsys):
    assert main(["recognize", str(files / "a.npy"), str(files / "one_frame.npy"), "--model", str(model), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answer = Recognizer.from_pretrained(model).recognize(files / "a.npy")
    assert lines[0]["name"] == answer.name == answer.top[0][0]
    assert lines[0]["sentence"] == answer.sentence
    assert len(lines[0]["top"]) == 5
    probabilities = [probability for _, probability in lines[0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1.0001
    assert lines[1]["file"].endswith("one_frame.npy")


def test_a_bad_file_among_good_ones(model, files, capsys):
    assert main(["recognize", str(files / "bad.skeleton"), str(files / "a.npy"), "--model", str(model)]) == 1
    said = capsys.readouterr()
    assert "bad.skeleton line 1: expected the number of frames" in said.err
    assert "a.npy: " in said.out


def test_gif_is_written_for_one_file_only(model, files, capsys):
    gif = files / "out" / "a.gif"
    assert main(["recognize", str(files / "a.npy"), "--model", str(model), "--gif", str(gif)]) == 0
    assert gif.read_bytes()[:6] == b"GIF89a"
    assert (
        main(["recognize", str(files / "a.npy"), str(files / "a.npy"), "--model", str(model), "--gif", str(gif)]) == 2
    )


def test_gif_that_cannot_be_written(model, files, capsys):
    assert main(["recognize", str(files / "a.npy"), "--model", str(model), "--gif", str(files / "a.mov")]) == 2
    (files / "file").write_text("")
    assert main(["recognize", str(files / "a.npy"), "--model", str(model), "--gif", str(files / "file" / "a.gif")]) == 1
    assert "error: --gif" in capsys.readouterr().err


def test_missing_model_and_another_layout(model, files, tmp_path, capsys):
    assert main(["recognize", str(files / "a.npy"), "--model", str(tmp_path / "none")]) == 1
    assert 'run "make stage2"' in capsys.readouterr().err
    np.save(tmp_path / "k.npy", np.ones((4, 20, 3), dtype=np.float32))
    assert main(["recognize", str(tmp_path / "k.npy"), "--model", str(model)]) == 1
    assert "has the layout kinect20, this tokenizer reads ntu25" in capsys.readouterr().err


def test_a_raw_file_is_read_as_the_training_data_were(model, tmp_path):
    recognizer = Recognizer.from_pretrained(model)
    (tmp_path / "a.skeleton").write_text(raw_clips.ntu_text(14))
    usual = recognizer.read(tmp_path / "a.skeleton").joints
    recognizer.tokenizer.info["dataset"]["actors"] = "prenormalize3d"
    assert not np.allclose(recognizer.read(tmp_path / "a.skeleton").joints, usual)
    joints = example_clip().joints
    np.save(tmp_path / "b.npy", joints[..., [0, 2, 1]] * np.array([1000, -1000, 1000]))  # millimetres, z up
    recognizer.tokenizer.info["dataset"]["own"] = {"layout": "ntu25", "units": "mm", "up": "z"}
    np.testing.assert_allclose(recognizer.read(tmp_path / "b.npy").joints, joints, atol=1e-5)


def test_other_names_than_the_trained_ones(model, files, capsys):
    names = ["pour tea", "greet", "greet a friend"]
    (files / "names.txt").write_text("\n".join(names) + "\n\n")
    for given in (", ".join(names), str(files / "names.txt")):
        assert main(["recognize", str(files / "a.npy"), "--model", str(model), "--json", "--classes", given]) == 0
        top = json.loads(capsys.readouterr().out)["top"]
        assert sorted(name for name, _ in top) == sorted(names)
        assert sum(probability for _, probability in top) == pytest.approx(1, abs=1e-5)
    with pytest.raises(SystemExit):
        main(["recognize", "x", "--classes", "missing.txt"])
    assert "expected names parted by commas, or a text file" in capsys.readouterr().err


def found(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def folder(tmp_path):
    for name in ("clips/a.npy", "clips/deep/b.npy", "clips/deep/c.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, example_clip().joints[len(name) :])
    (tmp_path / "clips" / "notes.md").write_text("no skeleton")
    return tmp_path / "clips"


def test_a_folder_and_a_pattern_in_batches_into_a_file_with_a_bar(model, folder, tmp_path, capsys):
    out = tmp_path / "new" / "answers.jsonl"
    ask = ["--model", str(model), "--batch", "2"]
    assert main(["recognize", str(folder), *ask, "--out", str(out), "--progress"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "3/3" in said.err
    lines = found(out.read_text())
    files = [folder / "a.npy", folder / "deep" / "b.npy", folder / "deep" / "c.npy"]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    recognizer = Recognizer.from_pretrained(model)
    for line, file in zip(lines, files, strict=True):
        answer = recognizer.recognize(file)
        assert (line["name"], line["sentence"], line["said"]) == (answer.name, answer.sentence, None)
        assert [p for _, p in line["top"]] == pytest.approx([p for _, p in answer.top], rel=1e-4)
    assert main(["recognize", str(folder / "deep" / "*.npy"), *ask, "--json"]) == 0
    said = capsys.readouterr()
    assert [line["file"] for line in found(said.out)] == [str(file) for file in files[1:]]
    assert said.err == ""  # no bar where nobody looks
    assert list(out.parent.iterdir()) == [out]


def test_bad_files_of_a_folder_are_a_sentence_each_and_the_others_answered(model, folder, capsys):
    (folder / "bad.skeleton").write_text("nothing")
    np.save(folder / "k.npy", np.ones((4, 20, 3), dtype=np.float32))
    assert main(["recognize", str(folder), str(folder / "none.npy"), "--model", str(model), "--json"]) == 1
    said = capsys.readouterr()
    assert [Path(line["file"]).name for line in found(said.out)] == ["a.npy", "b.npy", "c.npy"]
    errors = sorted(said.err.strip().splitlines())
    assert len(errors) == 3
    assert "bad.skeleton line 1" in errors[0]
    assert "k.npy: has the layout kinect20, this tokenizer reads ntu25" in errors[1]
    assert "none.npy: no such file" in errors[2]


def test_the_clips_of_a_prepared_dataset_with_their_truth(model, small_data, capsys):
    data = PreparedDataset.open(small_data)
    test = find_protocol("synthetic_xsub", "synthetic").split(data.table)[1].tolist()
    ask = ["--model", str(model), "--json", "--split", "test", "--protocol", "synthetic_xsub"]
    assert main(["recognize", str(small_data), *ask]) == 0
    lines = found(capsys.readouterr().out)
    assert [line["file"] for line in lines] == [f"{small_data}#{data.sources[row]}" for row in test]
    assert [line["truth"] for line in lines] == [CLASS_NAMES[data.clip(row).label] for row in test]
    answer = Recognizer.from_pretrained(model).recognize(data.clip(test[5]))
    assert (lines[5]["name"], lines[5]["sentence"]) == (answer.name, answer.sentence)


def test_what_cannot_be_answered_is_said_before_the_model_is_loaded(model, folder, small_data, tmp_path, capsys):
    other = tiny_llms.write(tmp_path / "other", "llama")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    a = str(folder / "a.npy")
    many = ", ".join(f"lift box number {number}" for number in range(400))
    listing = shutil.copytree(model, tmp_path / "listing") / "llm.json"
    config = json.loads(listing.read_text())
    listing.write_text(json.dumps(config | {"prompt": config["prompt"] | {"text": UNSEEN}}))
    for arguments, said in (
        ([a, "--classes", "a, b, a"], "'a' (class 0) and 'a' (class 2) have the same tokens"),
        ([a, "--classes", ","], "no class name to answer with"),
        ([a, "--classes", many, "--model", str(listing.parent)], "more than the 1024 that"),
        ([str(tmp_path / "empty")], "holds no skeleton file (.skeleton, .json, "),
        ([str(folder / "*.mat")], "no file matches"),
        ([str(folder / "b.npy")], "b.npy: no such file"),
        ([a, "--model", str(tmp_path / "none")], 'run "make stage2"'),
        ([a, "--model", str(tmp_path / "empty")], 'run "make stage2"'),
        ([a, "--llm", str(other)], "was tuned on another language model than"),
        ([a, "--llm", str(tmp_path / "none")], "none' is no folder here"),
        ([a, "--out", str(tmp_path / "file" / "x.jsonl")], "x.jsonl: cannot be written ("),
        ([a, "--out", str(tmp_path / "empty")], "cannot be written (it is a folder); name another file"),
        ([a, "--split", "test", "--protocol", "synthetic_xsub"], "only a prepared dataset has a --split"),
        ([str(small_data), "--split", "test", "--protocol", "ntu60_xsub"], "does not fit the dataset 'synthetic'"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LanguageModel, "load", lambda *_: pytest.fail("the model was loaded"))
            assert main(["recognize", "--model", str(model), *arguments]) == 1, said
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert said in printed.err
    for arguments in ([a, "--split", "test"], [a, "--batch", "0"]):
        with pytest.raises(SystemExit) as left:
            main(["recognize", *arguments])
        assert left.value.code == 2


def test_the_folder_the_base_model_and_the_library_are_enough(tmp_path):
    """In another directory, with the library's package alone: no trainer, no configs, no clone."""
    base = tiny_llms.write(tmp_path / "base", "llama")
    write_recognizer(tmp_path / "recognizer", str(base))
    base.rename(tmp_path / "moved")
    shutil.copytree(Path(skeleton_llm.__file__).parent, tmp_path / "packages" / "skeleton_llm")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    np.save(elsewhere / "a.npy", example_clip().joints)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "packages")!r})
for room in ("lightning", "lightning_modules", "datamodules", "callbacks", "configs"):
    sys.modules[room] = None
import skeleton_llm
from skeleton_llm.cli.main import main
assert skeleton_llm.__file__.startswith({str(tmp_path)!r})
sys.exit(main(["recognize", "a.npy", "--model", "../recognizer", "--llm", "../moved", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = Recognizer.from_pretrained(tmp_path / "recognizer", llm=str(tmp_path / "moved")).recognize(
        elsewhere / "a.npy"
    )
    assert json.loads(done.stdout)["name"] == answer.name
