"""Classes that neither stage has seen: held out by LLM-AR's draws, or the names of another dataset."""

import json
import shutil
import statistics
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml

import skeleton_llm.cli.unseen
from datamodules import SkeletonDataModule
from datamodules.clips import ClipBatches
from lightning_modules import LitLLMRecognizer
from skeleton_llm import ActionTokenizer, Recognizer
from skeleton_llm.cli.main import main
from skeleton_llm.cli.unseen import table
from skeleton_llm.language import Answers, LanguageModel, LLMRecognizer, Prompt, Wording
from skeleton_llm.language.prompts import SEEN, UNSEEN
from skeleton_llm.metrics import NameAnswers
from skeleton_llm.skeletons import Clip, unseen_classes, write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips
from small_runs import ROOT, SMALL

SAVING = yaml.safe_load((ROOT / "configs/stage2.yaml").read_text())["trainer"]["callbacks"]
SAVING[0]["init_args"]["every"] = 3
NEW_NAMES = ["comb hair", "greet", "greet a friend", "jog", "lift a box", "open a door", "pour tea"]
SMALL_STAGES = {
    "stage1": {
        "model": {
            "init_args": {
                "network": {"width": 16, "num_codes": 32, "tokens_per_step": 1},
                "quantize_after": 2,
                "sample_clips": 64,
            }
        },
        "trainer": {"max_steps": 4, "val_check_interval": 4},
    },
    "stage2": {
        "model": {"init_args": {"tuning": {"r": 4}}},
        "trainer": {"max_steps": 3, "val_check_interval": 3, "callbacks": SAVING},
    },
}


@contextmanager
def watching():
    """Labels of all clips that are read, and lists of all prompts, before each test split is opened and after."""
    seen = SimpleNamespace(testing=False, labels={False: set(), True: set()}, lists={False: [], True: []})
    read, test, prompt = ClipBatches.__getitems__, L.Trainer.test, LLMRecognizer.prompt

    def reading(self, keys):
        batch = read(self, keys)
        seen.labels[seen.testing] |= set(batch["labels"].tolist())
        return batch

    def testing(self, *args, **kwargs):
        seen.testing = True
        try:
            return test(self, *args, **kwargs)
        finally:
            seen.testing = False

    def asking(self, sentences, mask, listed=None):
        seen.lists[seen.testing].extend(listed or [None])
        return prompt(self, sentences, mask, listed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipBatches, "__getitems__", reading)
        patch.setattr(L.Trainer, "test", testing)
        patch.setattr(LLMRecognizer, "prompt", asking)
        patch.setattr(skeleton_llm.cli.unseen, "fit", lambda arguments: main(["fit", *arguments]))
        yield seen


@pytest.fixture(scope="module")
def draws(small_data, tmp_path_factory):
    """The command with two draws, and what it read of each."""
    base = tmp_path_factory.mktemp("draws")
    given = ["--folder", str(base / "unseen"), "--config", str(ROOT / "configs/data/synthetic.yaml"), *SMALL]
    given += ["--data.init_args.folder", str(small_data)]
    for stage, config in SMALL_STAGES.items():
        (base / f"{stage}.yaml").write_text(yaml.safe_dump(config))
        given += [f"--{stage}", str(base / f"{stage}.yaml")]
    found = []
    for draw in ("0", "1"):
        with watching() as seen:
            assert main(["unseen", *given, "--draws", draw]) == 0
        found.append(seen)
    return SimpleNamespace(arguments=["unseen", *given, "--draws", "0", "1"], folder=base / "unseen", seen=found)


def held(draw: int) -> tuple[int, ...]:
    return unseen_classes(f"draw{draw}", "synthetic", len(CLASS_NAMES))


def test_one_overlay_holds_the_classes_out_of_both_stages_and_asks_for_them_in_the_test(draws):
    for draw, seen in enumerate(draws.seen):
        assert len(seen.labels[False]) > 10
        assert not seen.labels[False] & set(held(draw))  # training, statistics, codebook, validation
        assert seen.labels[True] >= set(held(draw))
        assert all(len(set(listed)) == 3 for listed in seen.lists[False])
        assert not {label for listed in seen.lists[False] for label in listed} & set(held(draw))
        assert {tuple(sorted(listed)) for listed in seen.lists[True]} == {held(draw)}
        assert len(set(seen.lists[True])) == 6  # every order
        made = json.loads((draws.folder / f"draw{draw}/stage2/recognizer/llm.json").read_text())["prompt"]
        assert (made["text"], made["choices"]) == (UNSEEN, 3)


def test_the_table_gives_mean_and_deviation_beside_chance_and_finished_runs_are_kept(draws, capsys):
    with watching() as seen:
        assert main(draws.arguments) == 0
    assert seen.labels == {False: set(), True: set()}
    written = (draws.folder / "results.md").read_text()
    assert written in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines()]
    assert rows[0][:3] == ["draw", "held out", "top-1"]
    results = [json.loads((draws.folder / f"draw{k}/stage2/results.json").read_text()) for k in range(2)]
    top1 = [100 * result["test/top1"] for result in results]
    assert [row[2] for row in rows[2:4]] == [f"{value:.1f}" for value in top1]
    assert [row[1] for row in rows[2:4]] == [", ".join(CLASS_NAMES[i] for i in held(k)) for k in range(2)]
    assert rows[4][2] == f"{statistics.mean(top1):.1f} ± {statistics.stdev(top1):.1f}"
    assert {row[-1] for row in rows[2:]} == {"33.3"}


def test_only_what_is_missing_runs_again_and_ends_the_same(draws):
    before = (draws.folder / "results.md").read_text()
    shutil.rmtree(draws.folder / "draw1/stage2")
    with watching() as seen:
        assert main(draws.arguments) == 0
    assert not seen.labels[False] & set(held(1))
    assert {tuple(sorted(listed)) for listed in seen.lists[True]} == {held(1)}
    assert (draws.folder / "results.md").read_text() == before


@pytest.mark.slow
def test_a_run_that_fails_ends_the_command_with_its_name_and_exit_code(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["unseen", "--folder", str(tmp_path), "--data.init_args.foldr", "x"]) == 2
    said = capfd.readouterr().err
    assert "foldr" in said
    assert f"{tmp_path / 'draw0/stage1'} ended with exit code 2" in said
    assert "±" not in table({0: {"test/top1": 0.5, "unseen": ["a", "b"]}})


def test_an_unaligned_tokenizer_is_allowed_to_stage_2_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(skeleton_llm.cli.unseen, "fit", lambda arguments: asked.append(arguments) or len(asked) == 2)
    given = ["--folder", str(tmp_path), "--draws", "0", "--allow-unaligned", "--data.init_args.batch_size", "3"]
    assert main(["unseen", *given]) == 1
    assert [arguments.count("--allow-unaligned") for arguments in asked] == [0, 1]
    assert all("--data.init_args.batch_size" in arguments for arguments in asked)


def log_likelihood(llm: LanguageModel, model: torch.nn.Module, code: torch.Tensor, prompt: str, name: str) -> float:
    """Log p(name, end), by teacher forcing of Hugging Face's model on text written by hand."""
    text, words = llm.tokenizer(), model.get_input_embeddings()
    before, after = (text(part, add_special_tokens=False)["input_ids"] for part in prompt.split("[tokens]"))
    said = [*text(f" {name}", add_special_tokens=False)["input_ids"], text.eos_token_id]
    parts = [words(torch.tensor([text.bos_token_id, *before])), code, words(torch.tensor([*after, *said]))]
    logits = model(inputs_embeds=torch.cat(parts)[None]).logits[0, -len(said) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(said)), said].sum())


@torch.no_grad()
def test_answers_are_among_the_listed_names_and_equal_brute_force(draws, small_data):
    folder = draws.folder / "draw0/stage1/tokenizer"
    reader = ActionTokenizer.from_pretrained(folder)
    data = SkeletonDataModule(str(small_data), "synthetic_xsub", unseen="draw0", preprocess=reader.preprocess)
    module = LitLLMRecognizer(str(folder), data.class_names, "ntu25", unseen=data.unseen)
    module.configure_model()
    module.eval()
    module.trainer, module.log = SimpleNamespace(datamodule=data), lambda *args, **kwargs: None
    base = module.llm.load().eval()
    for split, step in (("val", module.validation_step), ("test", module.test_step)):
        keys = [(-1, i) for i in range(0, len(data.rows[split]), 5)][:6]
        batch = data.batches(split).__getitems__(keys)
        scores = step(batch, 0)["scores"]
        listed = module._in_question(batch, split)
        again = {name: tensor[2:].flip(0) for name, tensor in batch.items()}
        assert module._in_question(again, split) == listed[:1:-1]  # of the clip alone
        codes, _ = reader.embed(batch["joints"], batch["persons"])
        norm = base.get_input_embeddings().weight.square().sum(1).mean().sqrt()
        for row, label in enumerate(batch["labels"].tolist()):
            assert label in listed[row]
            assert set(scores[row].isfinite().nonzero()[:, 0].tolist()) == set(listed[row])
            prompt = UNSEEN.replace("[list]", ", ".join(CLASS_NAMES[i] for i in listed[row]))
            for i in listed[row]:
                truth = log_likelihood(module.llm, base, codes[row] * norm, prompt, CLASS_NAMES[i])
                assert float(scores[row, i]) == pytest.approx(truth, abs=1e-4)
    assert {i for row in module._in_question(batch, "test") for i in row} == set(data.unseen)


def test_lists_draw_from_the_seen_names_alone():
    wording = Wording(LanguageModel().tokenizer(), CLASS_NAMES, Prompt().holding_out(3))
    assert wording.prompt.choices == 3
    labels, seen = torch.arange(3, 20).repeat(30), list(range(3, 20))
    drawn = wording.listings(labels, seen)
    assert {i for row in drawn for i in row} == set(seen)
    fixed = wording.listings(labels, seen, torch.arange(len(labels)))
    assert fixed == wording.listings(labels, seen, torch.arange(len(labels))) != drawn
    assert all(label in row and len(set(row)) == 3 for label, row in zip(labels.tolist(), fixed, strict=True))
    everything = Wording(LanguageModel().tokenizer(), CLASS_NAMES, Prompt(UNSEEN).holding_out(3))
    assert everything.listings(labels, seen) == [tuple(seen)]
    assert Prompt(unseen=SEEN).holding_out(3).choices is None


def test_what_is_out_of_the_question_differs_from_clip_to_clip():
    scores = torch.tensor([[0.0, -1.0, -2.0], [0.0, -1.0, -2.0]])
    answers = Answers(scores, scores)
    assert answers.among([(1, 2), (2, 0)]).log_likelihoods.argmax(1).tolist() == [1, 0]
    assert answers.among([(2, 1)]).normalised.isinf().tolist() == [[True, False, False]] * 2
    free = NameAnswers(["sit", "sit down", "wave"])
    free.update(["sit", "Wave.", "sit"], torch.tensor([0, 2, 1]), [(0, 1), (1, 2), (1, 2)])
    assert free.compute() == {"exact_match": pytest.approx(2 / 3), "invalid": pytest.approx(1 / 3)}


def test_a_tokenizer_that_saw_the_classes_is_refused(draws):
    folder = draws.folder / "draw0/stage1/tokenizer"
    with pytest.raises(ValueError, match=r"was trained on clips of .*, which data.init_args.unseen holds out; run st"):
        LitLLMRecognizer(str(folder), CLASS_NAMES, "ntu25", unseen=list(held(1)))


@pytest.fixture
def renamed(tmp_path) -> Path:
    """Other clips with seven other names, one person each."""
    clips = (
        replace(clip, joints=clip.joints[:, :1], label=clip.label % 7)
        for clip in synthetic_clips(seed=1, subjects=3, replications=1)
        if clip.joints[:, 0].any()
    )
    about = {"name": "synthetic", "layout": "ntu25", "class_names": NEW_NAMES, "num_persons": 1}
    write_dataset(tmp_path / "renamed", clips, source="synthetic", **about)
    return tmp_path / "renamed"


def test_another_dataset_is_named_by_its_own_names_and_the_run_keeps_its_results(draws, renamed, tmp_path, capsys):
    run = draws.folder / "draw0/stage2"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    given = ["test", "--config", str(run / "config.yaml"), "--data.init_args.folder", str(renamed)]
    given += ["--data.init_args.unseen", "null", "--ckpt_path", str(run)]
    elsewhere = ["--trainer.default_root_dir", str(tmp_path / "out")]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert f"{run} holds the results of another run than one with data.init_args.folder {renamed}; keep them" in said
    with pytest.warns(UserWarning, match=r"the checkpoint was tuned with the prompt .*list.*prompt.text gives the"):
        assert main([*given, *elsewhere]) == 0
    prompt = ["--model.init_args.prompt.text", UNSEEN]
    assert main([*given, *elsewhere, *prompt]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    recognizer = Recognizer.from_pretrained(run / "recognizer", class_names=NEW_NAMES)
    data = SkeletonDataModule(str(renamed), "synthetic_xsub", preprocess=recognizer.tokenizer.preprocess)
    batch = data.batches("test").__getitems__([(-1, i) for i in range(len(data.rows["test"]))])
    probability = recognizer.probabilities(batch["joints"], batch["persons"])
    right = (probability.argmax(1) == batch["labels"]).float().mean()
    assert results["test/top1"] == pytest.approx(float(right), abs=1e-6)
    names = [line.split(",")[0] for line in (tmp_path / "out/test_per_class.csv").read_text().splitlines()[1:]]
    assert names == NEW_NAMES
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    asked = UNSEEN.replace("[list]", ", ".join(NEW_NAMES))
    network = recognizer.network
    sentences, _ = network.read(recognizer.tokenizer, batch["joints"], batch["persons"])
    with torch.no_grad():
        for row in (0, 11):
            code = network._tokens(sentences[row : row + 1])[0].repeat(2, 1)  # the prompt of configs/stage2.yaml
            truth = [log_likelihood(LanguageModel(), network.llm, code, asked, name) for name in NEW_NAMES]
            wanted = (torch.tensor(truth) / network.temperature).softmax(0)
            torch.testing.assert_close(probability[row], wanted, atol=1e-4, rtol=1e-3)
    clip = data.data.clip(int(batch["index"][11]))
    assert recognizer.recognize(clip).name == NEW_NAMES[int(probability[11].argmax())]


def test_a_checkpoint_that_is_not_there_and_another_layout_are_told(draws, tmp_path, capsys):
    run = draws.folder / "draw0/stage2"
    given = ["test", "--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "out")]
    assert main([*given, "--ckpt_path", str(tmp_path)]) == 2
    assert "holds no checkpoint to test; train first, or name one, or its run folder" in capsys.readouterr().err
    joints = np.random.default_rng(0).normal(size=(2, 8, 1, 20, 3)).astype(np.float32)
    clips = [Clip(joints[i], "kinect20", 0, subject=i + 2) for i in range(2)]
    about = {"name": "synthetic", "layout": "kinect20", "class_names": ["a", "b"], "num_persons": 1}
    write_dataset(tmp_path / "k", clips, source="test", **about)
    more = ["--data.init_args.folder", str(tmp_path / "k"), "--data.init_args.unseen", "null", "--ckpt_path", str(run)]
    assert main([*given, *more, "--data.init_args.val_fraction", "0"]) == 2
    assert "the tokenizer reads the layout ntu25, the data have kinect20" in capsys.readouterr().err
