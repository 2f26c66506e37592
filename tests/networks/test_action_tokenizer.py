import json

import numpy as np
import pytest
import torch

from skeleton_llm import ActionTokenizer
from skeleton_llm.networks import VQVAE, VQVAEConfig
from skeleton_llm.skeletons import Clip, Preprocess


@pytest.fixture
def tokenizer() -> ActionTokenizer:
    torch.manual_seed(0)
    config = VQVAEConfig(width=16, depth=1, num_codes=8, tokens_per_step=2)
    vqvae = VQVAE(config, layout="kinect20", num_persons=2, dim=12)
    return ActionTokenizer(vqvae, Preprocess(frames=16), {"dataset": {"name": "x"}})


def clip(frames: int = 9, persons: int = 1) -> Clip:
    joints = np.random.default_rng(0).normal(size=(frames, persons, 20, 3)).astype(np.float32)
    return Clip(joints, "kinect20", source="a.npy")


def test_folder_gives_back_a_tokenizer_that_writes_the_same_sentences(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = ActionTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.encode_clip(clip()) == tokenizer.encode_clip(clip())
    assert again.preprocess == tokenizer.preprocess
    assert again.info == tokenizer.info


@pytest.mark.parametrize("frames", [1, 2, 300])
def test_clips_of_any_length_give_sentences_of_one_length(tokenizer, frames):
    sentence = tokenizer.encode_clip(clip(frames))
    assert len(sentence) == 16 // 4 * 2
    assert all(0 <= token < 8 for token in sentence)


def test_embeddings_are_the_codebook_rows_of_the_sentence(tokenizer):
    joints, persons = tokenizer.prepare(clip())
    embedded, mask = tokenizer.embed(joints, persons)
    assert mask.all()
    assert embedded[0].equal(tokenizer.vqvae.quantizer.codebook()[tokenizer.encode_clip(clip())])


def test_decoding_gives_joints_in_metres(tokenizer):
    joints, persons = tokenizer.decode(torch.tensor([tokenizer.encode_clip(clip())]))
    assert joints.shape == (1, 16, 2, 20, 3)
    assert persons.shape == (1, 2)


def test_it_stays_in_eval_mode_and_without_gradients(tokenizer):
    owner = torch.nn.ModuleList([tokenizer]).train()
    assert not any(module.training for module in owner[0].modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_another_layout_is_refused_by_name(tokenizer):
    other = Clip(np.ones((3, 1, 25, 3), dtype=np.float32), "ntu25", source="b.skeleton")
    with pytest.raises(ValueError, match=r"b\.skeleton: has the layout ntu25, this tokenizer reads kinect20"):
        tokenizer.encode_clip(other)


def test_missing_damaged_and_mixed_folders_are_told_apart(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'config\.json is missing.*"make stage1"'):
        ActionTokenizer.from_pretrained(tmp_path / "nothing")
    tokenizer.save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ValueError, match="not a whole action tokenizer"):
        ActionTokenizer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "fingerprint": "0"}))
    with pytest.raises(ValueError, match="the weights are not those"):
        ActionTokenizer.from_pretrained(tmp_path)
