import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.main import main
from skeleton_llm.networks import VQVAE, VQVAEConfig
from skeleton_llm.skeletons import PreparedDataset, Preprocess


def save(folder: Path, layout: str = "ntu25", persons: int = 2, seed: int = 0, **preprocess) -> Path:
    torch.manual_seed(seed)
    how = preprocess.pop("sentence", "channels")
    config = VQVAEConfig(width=16, depth=1, num_codes=32, tokens_per_step=2, persons=how)
    vqvae = VQVAE(config, layout=layout, num_persons=persons, dim=12)
    ActionTokenizer(vqvae, Preprocess(**preprocess), {}).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    return save(tmp_path / "run" / "tokenizer", frames=16)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "facts",
    [
        {"frames": 16},
        {"frames": 16, "persons": 1},
        {"frames": 16, "persons": 3},
        {"length": "whole"},
        {"length": "whole", "longest": 24, "sentence": "sentences"},
        {"length": "window", "frames": 16, "align": "full"},
    ],
)
def test_each_line_is_what_the_tokenizer_writes_of_that_raw_clip(tmp_path, small_data, facts):
    folder, out = save(tmp_path / "tokenizer", **facts), tmp_path / "new" / "a.jsonl"
    assert main(["tokenize", str(small_data), "--tokenizer", str(folder), "--out", str(out), "--device", "cpu"]) == 0
    data, tokenizer, found = PreparedDataset.open(small_data), ActionTokenizer.from_pretrained(folder), lines(out)
    assert [line["clip"] for line in found] == data.sources
    for row in range(0, len(data), 7):
        clip = data.clip(row)
        tokens, mask = tokenizer.encode(clip)
        facts = {"subject": clip.subject, "view": clip.view, "setup": clip.setup, "replication": clip.replication}
        action = data.info["class_names"][clip.label]
        expected = {
            "clip": clip.source, "label": clip.label, "action": action, **facts, "tokens": tokens[mask].tolist()
        }  # fmt: skip
        if tokenizer.vqvae.apart:
            expected["tokens_per_person"] = mask[0].view(2, -1).sum(1).tolist()
        assert found[row] == expected


@pytest.mark.parametrize("facts", [{"frames": 16}, {"length": "whole"}])
def test_batch_size_does_not_change_a_sentence(tmp_path, small_data, facts):
    folder, texts = save(tmp_path / "tokenizer", **facts), []
    for size in ("1", "50", "1000"):
        out = tmp_path / f"{size}.jsonl"
        command = ["tokenize", str(small_data), "--tokenizer", str(folder), "--out", str(out), "--batch-size", size]
        assert main([*command, "--device", "cpu"]) == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1] == texts[2]


def test_the_identity_says_whose_sentences_of_what(tokenizer, small_data, capsys):
    assert main(["tokenize", str(small_data), "--tokenizer", str(tokenizer)]) == 0
    out = tokenizer.parent / "sentences" / "synthetic.jsonl"
    said, about = capsys.readouterr().out, json.loads(out.with_suffix(".json").read_text())
    data, found = PreparedDataset.open(small_data), lines(out)
    assert about["fingerprint"] == ActionTokenizer.from_pretrained(tokenizer).fingerprint()
    assert about["content_hash"] == data.info["content_hash"]
    assert about["class_names"] == data.info["class_names"]
    assert (about["dataset"], about["num_clips"], about["num_codes"]) == ("synthetic", len(data), 32)
    assert about["num_tokens"] == sum(len(line["tokens"]) for line in found) == len(data) * 16 // 4 * 2
    assert {path.name for path in out.parent.iterdir()} == {"synthetic.jsonl", "synthetic.json"}
    assert f"{out}: {len(data):,} clips, {about['num_tokens']:,} tokens" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(KeyboardInterrupt(), 130, "nothing was written"), (OSError("disk full"), 1, "disk full")],
)
def test_an_interrupted_run_leaves_nothing_and_an_old_output_as_it_was(
    tokenizer, small_data, monkeypatch, capsys, error, code, said
):
    real, calls = ActionTokenizer.sentences, []

    def fail(self, *batch):
        calls.append(None)
        if len(calls) == 3:
            raise error
        return real(self, *batch)

    command = ["tokenize", str(small_data), "--tokenizer", str(tokenizer), "--batch-size", "20"]
    monkeypatch.setattr(ActionTokenizer, "sentences", fail)
    assert main(command) == code
    assert said in capsys.readouterr().err
    folder = tokenizer.parent / "sentences"
    assert list(folder.iterdir()) == []
    assert main(command) == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    save(tokenizer, seed=1, frames=16)
    calls.clear()
    assert main([*command, "--overwrite"]) == code
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_same_again_is_kept_and_another_asks_for_overwrite(tokenizer, small_data, monkeypatch, capsys):
    command = ["tokenize", str(small_data), "--tokenizer", str(tokenizer)]
    assert main(command) == 0
    out = tokenizer.parent / "sentences" / "synthetic.jsonl"
    first = out.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(ActionTokenizer, "sentences", None)
        assert main(command) == 0
    assert "are there already; kept" in capsys.readouterr().out
    for change in ({"seed": 1, "frames": 16}, {"seed": 0, "frames": 32}):  # other weights, and the same cut otherwise
        save(tokenizer, **change)
        assert main(command) == 1
        assert "replace with --overwrite" in capsys.readouterr().err
        assert out.read_text() == first
    assert main([*command, "--overwrite"]) == 0
    assert len(lines(out)[0]["tokens"]) == 32 // 4 * 2
    out.with_suffix(".json").unlink()  # whose they are is unknown
    assert main(command) == 1


def test_what_cannot_be_written_says_why_before_anything_is_encoded(
    tmp_path, tokenizer, small_data, monkeypatch, capsys
):
    monkeypatch.setattr(ActionTokenizer, "sentences", None)
    other = save(tmp_path / "other", layout="kinect20", frames=16)
    (tmp_path / "clips.json").write_text('{"source": []}')
    (tmp_path / "folder.jsonl").mkdir()
    for data, folder, more, reason in (
        (small_data, other, [], "has the layout ntu25, the tokenizer .* reads kinect20"),
        (tmp_path / "none", tokenizer, [], "is no prepared dataset"),
        (small_data, tmp_path / "none", [], "expected the action tokenizer that stage 1 exports"),
        (small_data, tokenizer, ["--out", str(tmp_path / "clips.jsonl"), "--overwrite"], "would be lost"),
        (small_data, tokenizer, ["--out", str(tmp_path / "folder.jsonl"), "--overwrite"], "is a folder"),
    ):
        assert main(["tokenize", str(data), "--tokenizer", str(folder), *more]) == 1
        assert re.search(reason, capsys.readouterr().err)
    assert not (tokenizer.parent / "sentences").exists()


@pytest.mark.parametrize("wrong", [["--batch-size", "0"], ["--out", "a.json"], []])
def test_a_wrong_command_line_is_refused(tmp_path, wrong):
    command = ["tokenize", "x", *(["--tokenizer", "y", *wrong] if wrong else [])]
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2


def test_a_fact_that_is_sometimes_unknown_is_null_and_one_never_known_is_left_out(tokenizer, small_data, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in small_data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    columns = json.loads((folder / "clips.json").read_text())
    columns["setup"] = [None] * len(columns["setup"])
    columns["subject"][0] = columns["label"][0] = None
    (folder / "clips.json").write_text(json.dumps(columns))
    out = tmp_path / "a.jsonl"
    assert main(["tokenize", str(folder), "--tokenizer", str(tokenizer), "--out", str(out)]) == 0
    found = lines(out)
    assert {tuple(line) for line in found} == {("clip", "label", "action", "subject", "view", "replication", "tokens")}
    assert (found[0]["label"], found[0]["action"], found[0]["subject"]) == (-1, None, None)
    assert found[1]["subject"] == columns["subject"][1]


def test_it_needs_no_lightning(tokenizer, small_data):
    code = "import sys, skeleton_llm.cli.main as m; sys.exit(m.main(sys.argv[1:]) or 'lightning' in sys.modules)"
    command = [sys.executable, "-c", code, "tokenize", str(small_data), "--tokenizer", str(tokenizer)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""  # no bar where nobody watches
