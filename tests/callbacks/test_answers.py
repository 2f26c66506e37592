"""What an evaluation of stage 2 reports, against counts by hand and on two ranks."""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.classification import MulticlassCalibrationError

import lightning_modules.llm_recognizer
from skeleton_llm import Recognizer
from skeleton_llm.cli.results import summary
from skeleton_llm.cli.resume import newest_checkpoint
from skeleton_llm.metrics import fit_temperature, read_scores
from skeleton_llm.recognizer import read_views, score_views
from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips
from small_runs import run, stage1_arguments, stage2_arguments
from template_answers import Templates

TESTS = Path(__file__).parents[1]


class Evaluated(NamedTuple):
    """A small run whose scores are those of templates."""

    arguments: list[str]
    folder: Path
    results: dict[str, float]
    templates: Templates
    names: list[str]
    scores: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Evaluated:
    """119 clips to validate and 119 to test."""
    base = tmp_path_factory.mktemp("evaluated")
    last = {clip.subject: clip.source for clip in synthetic_clips(subjects=4)}
    clips = (clip for clip in synthetic_clips(subjects=4) if clip.source != last[clip.subject])
    about = {"name": "synthetic", "layout": "ntu25", "class_names": CLASS_NAMES, "num_persons": 2}
    write_dataset(base / "data", clips, source="synthetic", **about)
    run(stage1_arguments(base / "data", base / "stage1"))
    templates = Templates(base / "data", base / "stage1/tokenizer")
    callbacks = yaml.safe_load((TESTS.parent / "configs/stage2.yaml").read_text())["trainer"]["callbacks"]
    callbacks[0]["init_args"]["every"] = 2
    (base / "often.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    more = ["--config", str(base / "often.yaml")]
    arguments = stage2_arguments(base / "data", base / "stage2", base / "stage1/tokenizer", *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_modules.llm_recognizer, "score_views", templates)
        patch.setattr(lightning_modules.llm_recognizer, "read_views", templates.read_views)
        run(arguments)
    scores, labels = {}, {}
    for split in ("val", "test"):
        templates.joints, labels[split] = templates.split(split)
        scores[split] = templates(None, None, None).log_likelihoods
        assert scores[split].shape == (119, 20)
    results = json.loads((base / "stage2/results.json").read_text())
    return Evaluated(arguments, base / "stage2", results, templates, list(CLASS_NAMES), scores, labels)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_the_validations_temperature_is_in_checkpoint_product_and_test(evaluated):
    events = read(evaluated.folder)
    temperature = events.Scalars("val/temperature")[-1].value
    assert temperature == pytest.approx(fit_temperature(evaluated.scores["val"], evaluated.labels["val"]), rel=1e-3)
    assert 0.02 < temperature < 50
    assert abs(temperature - 1) > 0.01
    checkpoint = torch.load(newest_checkpoint(evaluated.folder / "checkpoints"), weights_only=True)
    assert checkpoint["global_step"] == 4
    product = json.loads((evaluated.folder / "recognizer/llm.json").read_text())["temperature"]
    assert checkpoint["state_dict"]["network.temperature"].item() == pytest.approx(product, rel=1e-6)
    assert product == pytest.approx(temperature, rel=1e-6)
    error = MulticlassCalibrationError(len(evaluated.names), n_bins=15)
    for split in ("val", "test"):
        for name, divisor in (("ece_before", 1.0), ("ece_after", temperature)):
            expected = error((evaluated.scores[split].double() / divisor).softmax(-1), evaluated.labels[split]).item()
            assert events.Scalars(f"{split}/{name}")[-1].value == pytest.approx(expected, abs=1e-3), (split, name)
    assert abs(evaluated.results["test/ece_after"] - evaluated.results["test/ece_before"]) > 1e-3


def test_probabilities_of_the_product_are_calibrated(evaluated):
    recognizer = Recognizer.from_pretrained(evaluated.folder / "recognizer")
    temperature = json.loads((evaluated.folder / "recognizer/llm.json").read_text())["temperature"]
    data = evaluated.templates.data
    batch = data.batches("test").__getitems__([(-1, i) for i in range(4)])
    with torch.no_grad():
        answers = score_views(
            recognizer.network, read_views(recognizer.tokenizer, recognizer.network, batch["joints"], batch["persons"])
        )
    found = recognizer.probabilities(batch["joints"], batch["persons"])
    torch.testing.assert_close(found, (answers.log_likelihoods / temperature).softmax(-1))
    assert not torch.allclose(found, answers.log_likelihoods.softmax(-1), atol=1e-3)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_say_what_was_answered(evaluated):
    names, truth = evaluated.names, evaluated.labels["test"].tolist()
    answer = evaluated.scores["test"].argmax(-1).tolist()
    counts = Counter(zip(truth, answer, strict=True))
    rows = table(evaluated.folder / "test_per_class.csv")
    assert [row["name"] for row in rows] == names
    for index, row in enumerate(rows):
        clips, right, said = truth.count(index), counts[index, index], answer.count(index)
        assert (int(row["clips"]), int(row["right"])) == (clips, right)
        assert float(row["accuracy"]) == pytest.approx(right / clips, abs=1e-4)
        assert row["precision"] == (f"{right / said:.4f}" if said else "")
        most = max(counts[index, other] for other in range(len(names)) if other != index)
        if most:
            assert counts[index, names.index(row["most_confused_with"])] == most
            assert float(row["share"]) == pytest.approx(most / clips, abs=1e-4)
        else:
            assert row["most_confused_with"] == row["share"] == ""
    accuracy = [float(row["accuracy"]) for row in rows]
    assert sum(accuracy) / len(accuracy) == pytest.approx(evaluated.results["test/mean_class_accuracy"], abs=1e-4)
    pairs = table(evaluated.folder / "test_confused.csv")
    found = {(row["truth"], row["answer"]): int(row["clips"]) for row in pairs}
    assert found == {(names[a], names[b]): number for (a, b), number in counts.items() if a != b}
    assert not list(evaluated.folder.glob(".*.tmp"))


def test_every_clips_scores_are_kept_under_its_row_of_the_dataset(evaluated):
    for split in ("val", "test"):
        kept = read_scores(evaluated.folder / f"scores/{split}.safetensors")
        assert kept.scores.equal(evaluated.scores[split].float())
        assert kept.labels.equal(evaluated.labels[split])
        assert kept.rows.tolist() == sorted(evaluated.templates.data.rows[split].tolist())
        assert kept.of["data"] == evaluated.templates.data.info["content_hash"]
    right = (kept.scores.argmax(1) == kept.labels).float().mean()
    assert float(right) == pytest.approx(evaluated.results["test/top1"])


def test_the_end_names_the_five_most_confused_pairs(evaluated):
    pairs, end = table(evaluated.folder / "test_confused.csv"), summary(evaluated.folder)
    assert len(pairs) > 5
    for row in pairs[:5]:
        assert f"{row['truth']} -> {row['answer']}: {row['clips']} clips" in end
    assert end.count(" -> ") == 5


def test_figures_and_confused_pairs_are_in_tensorboard(evaluated):
    events = read(evaluated.folder)
    for split, times in (("val", 2), ("test", 1)):
        for figure in ("confusion", "reliability"):
            pictures = events.Images(f"{split}/{figure}")
            assert len(pictures) == times
            with Image.open(io.BytesIO(pictures[-1].encoded_image_string)) as image:
                assert 400 < min(image.size) <= max(image.size) < 1500
    text = events.Tensors("test/confused/text_summary")[-1].tensor_proto.string_val[0].decode()
    worst = table(evaluated.folder / "test_confused.csv")[0]
    assert f"| {worst['truth']} | {worst['answer']} | {worst['clips']} |" in text.splitlines()[2]


def evaluate(ranks: int, arguments: list[str], run_folder: Path, folder: Path) -> None:
    """Validate and test from the run's checkpoint, each rank a process as torchrun would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    more = ["--trainer.default_root_dir", str(folder), "--trainer.devices", str(ranks)]
    more += ["--trainer.strategy", "ddp"] if ranks > 1 else []
    commands = json.dumps([[command, *arguments, *more] for command in ("validate", "test")])
    given = [str(run_folder.parent / "data"), str(run_folder.parent / "stage1/tokenizer"), commands]
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    about |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "template_answers.py"), *given],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(TESTS.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    for process in started:
        out, _ = process.communicate()
        assert process.returncode == 0, out[-3000:]


@pytest.mark.slow
def test_two_ranks_report_the_numbers_of_one(evaluated, tmp_path):
    found, tables, clips = [], [], []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        shutil.copytree(evaluated.folder, folder)
        for old in (*folder.glob("events*"), *folder.glob("test_*.csv"), *folder.glob("scores/*")):
            old.unlink()
        evaluate(ranks, evaluated.arguments[1:], evaluated.folder, folder)
        events = read(folder)
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(("val/", "test/"))]
        found.append({tag: events.Scalars(tag)[-1].value for tag in tags})
        tables.append([(folder / name).read_text() for name in ("test_per_class.csv", "test_confused.csv")])
        clips.append(read_scores(folder / "scores/test.safetensors")[:3])
    tested = {name: value for name, value in found[0].items() if name.startswith("test/")}
    assert tested == pytest.approx(evaluated.results, rel=1e-4, abs=1e-5)  # from the checkpoint as at the run's end
    assert {"val/temperature", "val/ece_before", "val/ece_after"} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-5)
    assert tables[0] == tables[1]
    torch.testing.assert_close(clips[1], clips[0], rtol=1e-4, atol=1e-4)
