import json
import subprocess
import sys

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
    assert again.encode(clip())[0].equal(tokenizer.encode(clip())[0])
    assert again.preprocess == tokenizer.preprocess
    assert again.info == tokenizer.info


@pytest.mark.parametrize("frames", [1, 2, 300])
def test_clips_of_any_length_give_sentences_of_one_length(tokenizer, frames):
    tokens, mask = tokenizer.encode(clip(frames))
    assert tokens.shape == (1, 16 // 4 * 2)
    assert mask.all()
    assert tokens.min() >= 0
    assert tokens.max() < 8


def test_embeddings_are_the_codebook_rows_of_the_sentence(tokenizer):
    embedded, mask = tokenizer.embed(*tokenizer.batch([clip()]))
    assert mask.all()
    assert embedded.equal(tokenizer.vqvae.quantizer.codebook()[tokenizer.encode(clip())[0]])


def test_decoding_gives_joints_in_metres(tokenizer):
    joints = tokenizer.decode(tokenizer.encode(clip())[0])
    assert joints.shape == (1, 16, 2, 20, 3)
    assert tokenizer.decode(tokenizer.encode(clip())[0][0]).shape == (16, 2, 20, 3)
    with pytest.raises(ValueError, match="tokens must lie in 0 to 7, got 8 to 8"):
        tokenizer.decode(torch.tensor([8, 8]))
    with pytest.raises(ValueError, match="a multiple of 2 tokens, got 3"):
        tokenizer.decode(torch.tensor([1, 2, 3]))


def test_it_stays_in_eval_mode_and_without_gradients(tokenizer):
    owner = torch.nn.ModuleList([tokenizer]).train()
    assert not any(module.training for module in owner[0].modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_a_trainers_autocast_changes_nothing(tokenizer):
    given = tokenizer.batch([clip()])
    latents, codes = tokenizer.latents(*given)[0], tokenizer.embed(*given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert tokenizer.latents(*given)[0].equal(latents)
        assert tokenizer.embed(*given)[0].equal(codes)
        assert tokenizer.sentences(*given)[0].equal(tokenizer.encode(clip())[0])


def test_another_layout_is_refused_by_name(tokenizer):
    other = Clip(np.ones((3, 1, 25, 3), dtype=np.float32), "ntu25", source="b.skeleton")
    with pytest.raises(ValueError, match=r"b\.skeleton: has the layout ntu25, this tokenizer reads kinect20"):
        tokenizer.encode(other)


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


@pytest.mark.parametrize("persons", ["channels", "sentences"])
@pytest.mark.parametrize("length", ["resize", "whole", "window"])
def test_neither_neighbours_nor_padding_change_a_clips_tokens(length, persons):
    torch.manual_seed(1)
    config = VQVAEConfig(width=16, depth=2, num_codes=64, tokens_per_step=2, persons=persons)
    vqvae = VQVAE(config, layout="kinect20", num_persons=2, dim=12)
    tokenizer = ActionTokenizer(vqvae, Preprocess(frames=16, length=length), {})
    clips = [clip(frames, 1 + frames % 2) for frames in (5, 40, 1, 8, 23)]
    together, mask = tokenizer.encode(clips, batch_size=4)
    for row, alone in enumerate(clips):
        tokens, there = tokenizer.encode(alone)
        assert together[row][mask[row]].equal(tokens[0][there[0]])
        steps = 4 if length == "resize" else -(-len(alone.joints) // 4)
        assert mask[row].sum() == steps * 2 * (alone.joints.shape[1] if persons == "sentences" else 1)
    joints, there, lengths = tokenizer.batch(clips)
    if lengths is not None:  # whatever stands behind a clip's end
        garbage = joints + 1000.0 * (torch.arange(joints.shape[1]) >= lengths[:, None])[..., None, None, None]
        longer = torch.nn.functional.pad(garbage, (0, 0, 0, 0, 0, 0, 0, 9), value=7.0)
        again, seen = tokenizer.sentences(longer, there, lengths)
        for row in range(len(clips)):
            assert again[row][seen[row]].equal(together[row][mask[row]])
    skeletons = tokenizer.decode(together, mask)
    for row, one in enumerate(clips):
        alone = tokenizer.decode(*tokenizer.encode(one))[0]
        torch.testing.assert_close(skeletons[row, : len(alone)], alone, rtol=1e-3, atol=1e-4)
        assert not skeletons[row, len(alone) :].any()
    assert skeletons.shape[0] == 5
    assert not skeletons[2][4:].any() or length == "resize"  # one frame is one step of 4


def test_a_tokenizer_trained_on_windows_reads_whole_clips():
    vqvae = VQVAE(VQVAEConfig(width=16, depth=1, num_codes=8), layout="kinect20", num_persons=1, dim=12)
    assert ActionTokenizer(vqvae, Preprocess(length="window"), {}).preprocess.length == "whole"


def test_arrays_tensors_and_clips_are_read_alike(tokenizer):
    joints = clip(9).joints
    expected = tokenizer.encode(clip(9))[0]
    for form in (joints, torch.from_numpy(joints), joints[:, 0], [joints], torch.from_numpy(joints)[None]):
        assert tokenizer.encode(form)[0].equal(expected)
    with pytest.raises(ValueError, match=r"must have joints \[T, M, 20, 3\] \(kinect20\), got \[9, 1, 19, 3\]"):
        tokenizer.encode(joints[:, :, :19])


def test_three_lines_of_python_need_no_lightning(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    np.save(tmp_path / "clip.npy", clip(9).joints)
    script = f"""
import sys, numpy
from skeleton_llm import ActionTokenizer
tokenizer = ActionTokenizer.from_pretrained({str(tmp_path)!r})
tokens, mask = tokenizer.encode(numpy.load({str(tmp_path / "clip.npy")!r}))
print(tokenizer.decode(tokens, mask).shape[0], sorted(m for m in sys.modules if "lightning" in m))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"
