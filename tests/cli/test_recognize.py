import json

import numpy as np
import pytest
import torch

import raw_clips
from skeleton_llm import Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.language import LanguageModel, LLMRecognizer, Prompt, Tuning
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.skeletons import Preprocess
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, example_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    vqvae = VQVAE(VQVAEConfig(width=8, depth=1, num_codes=8), layout="ntu25", num_persons=2, dim=128)
    tokenizer = ActionTokenizer(vqvae, Preprocess(), {"dataset": {"name": "synthetic"}})
    llm, tuning = LanguageModel(), Tuning(r=2)
    network = LLMRecognizer(tuning.apply(llm.load()), llm.tokenizer(), CLASS_NAMES, Prompt(), input_map=True)
    folder = tmp_path_factory.mktemp("recognizer")
    Recognizer(tokenizer, network).save_pretrained(folder, llm, tuning, Prompt())
    return folder


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
