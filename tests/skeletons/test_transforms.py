import numpy as np
import pytest
import torch

from skeleton_llm.skeletons import Augmentation, Clip, Preprocess, find_layout
from skeleton_llm.skeletons.transforms import interpolate, mirror, valid_positions


def rotation(yaw: float, pitch: float = 0.0) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    about_y = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    return np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ about_y


def clip(frames: int = 12, seed: int = 0) -> Clip:
    joints = np.random.default_rng(seed).normal(size=(frames, 1, 25, 3)).astype(np.float32)
    return Clip(joints, "ntu25")


@pytest.mark.parametrize("align", ["yaw", "full"])
def test_alignment_undoes_where_the_camera_stands(align):
    preprocess = Preprocess(frames=16, align=align)
    original = clip()
    turned = Clip((original.joints @ rotation(2.1) + np.array([1.0, -2.0, 3.0])).astype(np.float32), "ntu25")
    torch.testing.assert_close(preprocess.apply(turned)[0], preprocess.apply(original)[0], rtol=1e-3, atol=1e-4)


def test_full_alignment_also_undoes_a_tilted_camera_and_yaw_does_not():
    original = clip()
    tilted = Clip((original.joints @ rotation(0.4, 0.3)).astype(np.float32), "ntu25")
    full, yaw = Preprocess(16, "full"), Preprocess(16, "yaw")
    torch.testing.assert_close(full.apply(tilted)[0], full.apply(original)[0], rtol=1e-3, atol=1e-4)
    assert (yaw.apply(tilted)[0] - yaw.apply(original)[0]).abs().max() > 0.1


def test_first_root_is_the_origin_and_left_hips_point_along_x():
    layout = find_layout("ntu25")
    joints, _ = Preprocess(frames=12).apply(clip())
    torch.testing.assert_close(joints[0, 0, 0, layout.root], torch.zeros(3))
    body = joints[0, :, 0]
    across = (body[:, layout.left_hip] - body[:, layout.right_hip]) + (
        body[:, layout.left_shoulder] - body[:, layout.right_shoulder]
    )
    assert abs(across.mean(0)[2]) < 1e-5
    assert across.mean(0)[0] > 0


@pytest.mark.parametrize("frames", [1, 2, 7, 64, 200])
def test_resizing_agrees_with_numpys_interpolation(frames):
    source = clip(frames)
    joints, _ = Preprocess(frames=64, align="none").apply(source)
    at = np.linspace(0, frames - 1, 64)
    body = source.joints[:, 0] - source.joints[0, 0, 0]
    expected = np.stack([np.interp(at, np.arange(frames), column) for column in body.reshape(frames, -1).T], axis=1)
    np.testing.assert_allclose(joints[0, :, 0].reshape(64, -1), expected, atol=1e-4)


def test_an_absent_person_stays_zero_and_one_that_comes_is_not_blended_with_zero():
    frames = torch.ones(4, 2, 1, 3)
    frames[:2, 1] = 0
    position = valid_positions(torch.zeros(1), torch.ones(1), torch.tensor([4]), 7)
    seen = frames.flatten(2).ne(0).any(-1)
    joints, present = interpolate(frames, seen, torch.tensor([0]), torch.tensor([4]), position)
    assert set(joints[0, :, 1].flatten().tolist()) == {0.0, 1.0}
    assert present[0, :, 0].all()


def test_mirroring_twice_is_nothing_and_once_swaps_hands():
    layout = find_layout("ntu25")
    joints = torch.randn(3, 25, 3)
    torch.testing.assert_close(mirror(mirror(joints, layout), layout), joints)
    left, right = layout.joints.index("left hand"), layout.joints.index("right hand")
    torch.testing.assert_close(mirror(joints, layout)[:, left, 1], joints[:, right, 1])
    torch.testing.assert_close(mirror(joints, layout)[:, left, 0], -joints[:, right, 0])


def test_draws_depend_on_seed_pass_and_index_alone():
    augmentation = Augmentation(mirror=0.5, noise=0.1)
    together = augmentation.draw(3, [(0, 1), (5, 7), (0, 2)])
    alone = augmentation.draw(3, [(5, 7)])
    for name in ("start", "share", "change", "mirrored"):
        assert getattr(together, name)[1].equal(getattr(alone, name)[0])
    other = augmentation.draw(4, [(5, 7)])
    assert not other.change.equal(alone.change)
    noisy = augmentation.add_noise(torch.zeros(3, 4, 1, 5, 3), together)
    assert noisy[1].equal(augmentation.add_noise(torch.zeros(1, 4, 1, 5, 3), alone)[0])


def test_draws_stay_in_their_ranges():
    augmentation = Augmentation(rotation=0.5, tilt=0.0, scale=0.2, crop=0.7)
    draws = augmentation.draw(0, [(0, i) for i in range(500)])
    assert draws.share.min() >= 0.7
    assert (draws.start + draws.share).max() <= 1 + 1e-6
    size = torch.linalg.det(draws.change) ** (1 / 3)
    assert 0.8 - 1e-4 <= size.min() < 0.85
    assert 1.15 < size.max() <= 1.2 + 1e-4
    angle = torch.atan2(draws.change[:, 0, 2], draws.change[:, 0, 0]).abs()
    assert 0.45 < angle.max() <= 0.5 + 1e-4


def test_shear_adds_a_share_of_every_coordinate_to_every_other():
    augmentation = Augmentation(rotation=0.0, tilt=0.0, scale=0.0, shear=0.3)
    change = augmentation.draw(0, [(0, i) for i in range(500)]).change
    diagonal = torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(change[:, diagonal], torch.ones(500, 3))
    shares = change[:, ~diagonal]
    farthest = shares.abs().amax(0)
    assert farthest.min() > 0.28
    assert farthest.max() <= 0.3
    assert shares.mean(0).abs().max() < 0.03  # deviation 0.173 / sqrt(500) = 0.008
    assert shares.T.corrcoef().fill_diagonal_(0).abs().max() < 0.2


def test_senseless_ranges_are_refused():
    with pytest.raises(ValueError, match=r"augmentation\.crop is a share of the clip in \(0, 1\], got 0"):
        Augmentation(crop=0.0)
    with pytest.raises(ValueError, match=r"augmentation\.noise must not be negative"):
        Augmentation(noise=-1.0)
