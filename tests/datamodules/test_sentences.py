import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from datamodules import SkeletonDataModule
from datamodules.sentences import SentenceBatches
from skeleton_llm.cli.main import main
from skeleton_llm.networks import VQVAE, ActionTokenizer, VQVAEConfig
from skeleton_llm.skeletons import Augmentation, Preprocess
from small_runs import stage1_arguments, stage2_arguments

AUGMENTATION = Augmentation(rotation=0.3, crop=0.7, noise=0.02)


@pytest.fixture(params=["resize", "whole"])
def data(request, small_data):
    preprocess = Preprocess(frames=32, length=request.param, mirrored=True)
    return SkeletonDataModule(str(small_data), "synthetic_xsub", preprocess, AUGMENTATION, seed=5)


@pytest.fixture
def tokenizer(data):
    torch.manual_seed(0)
    config = VQVAEConfig(width=16, depth=1, num_codes=32, persons="sentences")
    vqvae = VQVAE(config, layout="ntu25", num_persons=2, dim=16)
    vqvae.features.fit(*vqvae.rows(*[data.training_sample(32).get(k) for k in ("joints", "persons", "lengths")]))
    return ActionTokenizer(vqvae, data.preprocess, {})


def test_kept_sentences_are_those_that_the_tokenizer_writes(data, tokenizer, tmp_path):
    clips = data.batches("train", AUGMENTATION)
    kept = SentenceBatches(clips, tokenizer, tmp_path, draws=2)
    kept.write()
    for turn in (0, 1, 5):  # pass 5 reads draw 1
        keys = [(turn, index) for index in (3, 0, 17)]
        batch, truth = kept.__getitems__(keys), clips.__getitems__([(turn % 2, index) for _, index in keys])
        tokens, mask = tokenizer.sentences(truth["joints"], truth["persons"], truth.get("lengths"))
        for row in range(3):
            assert batch["tokens"][row, 0][batch["mask"][row, 0]].equal(tokens[row][mask[row]])
        assert batch["labels"].equal(truth["labels"])
        assert batch["index"].equal(truth["index"])
    assert not kept.__getitems__([(0, 3)])["tokens"].equal(kept.__getitems__([(1, 3)])["tokens"])


def test_data_workers_never_touch_the_tokenizer(data, tokenizer, tmp_path, monkeypatch):
    clips = data.batches("train", AUGMENTATION)
    kept = SentenceBatches(clips, tokenizer, tmp_path, draws=2)
    kept.write()
    truth = kept.__getitems__([(0, 3), (0, 4)])
    monkeypatch.setattr(ActionTokenizer, "fingerprint", lambda _: pytest.fail("its weights may lie on a GPU"))
    fresh = SentenceBatches.__new__(SentenceBatches)
    fresh.__dict__ = {**kept.__dict__, "_known": {}}
    loader = DataLoader(fresh, batch_sampler=[[(0, 3), (0, 4)]], num_workers=2, collate_fn=lambda batch: batch)
    (batch,) = loader
    assert batch["tokens"].equal(truth["tokens"])


def test_without_draws_every_view_is_kept(data, tokenizer, tmp_path):
    clips = data.batches("test")
    kept = SentenceBatches(clips, tokenizer, tmp_path, draws=0)
    kept.write()
    batch, truth = (part.__getitems__([(-1, 4), (-1, 9)]) for part in (kept, clips))
    views = data.preprocess.views(truth["joints"], tokenizer.vqvae.features.layout)
    assert batch["tokens"].shape[1] == len(views) == 2
    for view, joints in enumerate(views):
        tokens, mask = tokenizer.sentences(joints, truth["persons"], truth.get("lengths"))
        for row in range(2):
            assert batch["tokens"][row, view][batch["mask"][row, view]].equal(tokens[row][mask[row]])
    assert kept.__getitems__([])["tokens"].shape[0] == 0  # a rank without clips


def test_a_file_is_written_once_and_again_where_anything_changes_or_it_is_damaged(data, tokenizer, tmp_path):
    clips = data.batches("train", AUGMENTATION)
    kept = SentenceBatches(clips, tokenizer, tmp_path, draws=2)
    kept.write()
    first, second = kept.path(0), kept.path(1)
    assert {first, second} == set(tmp_path.iterdir())
    before, contents = first.stat().st_mtime_ns, first.read_bytes()
    kept.write()
    assert first.stat().st_mtime_ns == before
    first.write_bytes(contents[: len(contents) // 2])
    kept.write()
    assert np.load(first)["tokens"].tolist()
    clips.seed += 1
    assert kept.path(0) not in {first, second}
    clips.seed -= 1
    with torch.no_grad():
        tokenizer.vqvae.quantizer.direction[0] += 1
    assert SentenceBatches(clips, tokenizer, tmp_path, draws=2).path(0) not in {first, second}
    assert first.stat().st_size < 20 * len(clips) * 16


def test_a_folder_that_cannot_be_written_is_named(data, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    data.draws, data.reader, data.sentence_folder = 1, tokenizer, tmp_path / "file"
    data.trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(barrier=lambda: None))
    with pytest.raises(
        OSError, match=r"file: the action sentences cannot be kept there .*data.init_args.sentence_folder"
    ):
        data._read(data.batches("test"), 0)


@pytest.mark.slow
def test_a_run_on_kept_sentences_equals_one_that_tokenises_at_every_step(small_data, tmp_path):
    assert main(stage1_arguments(small_data, tmp_path / "stage1")) == 0
    tokenizer = tmp_path / "stage1/tokenizer"
    kept = ["--data.init_args.draws", "1", "--data.init_args.sentence_folder", str(tmp_path / "kept")]
    assert main(stage2_arguments(small_data, tmp_path / "live", tokenizer)) == 0
    assert main(stage2_arguments(small_data, tmp_path / "read", tokenizer, *kept)) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 3  # training, validation, test
    one, two = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("live", "read"))
    assert one == pytest.approx(two, abs=1e-6)
    one, two = (load_file(tmp_path / run / "recognizer/adapter/adapter_model.safetensors") for run in ("live", "read"))
    for name in one:  # four steps are within the first pass, which reads draw 0 in both
        torch.testing.assert_close(one[name], two[name])
