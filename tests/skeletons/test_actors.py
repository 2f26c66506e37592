"""Both actor conventions, step by step, against values worked out by hand from their descriptions."""

import numpy as np
import pytest

from skeleton_llm.skeletons.actors import (
    Body,
    bodies_of,
    by_motion,
    ctrgcn,
    find_convention,
    motion,
    narrow_frames,
    prenormalize3d,
    turn,
    without_short_bodies,
    without_wide_bodies,
)


def upright(frames, offset=(0.0, 0.0, 3.0), sway=0.0, wide=1.0):
    """A body of 25 joints, 2 high and ``wide`` wide, that sways sideways by ``sway`` from frame to frame."""
    joints = np.zeros((len(frames), 25, 3), dtype=np.float32)
    joints[:, :, 1] = np.linspace(-1, 1, 25)
    joints[:, 4, 0], joints[:, 8, 0] = -wide / 2, wide / 2
    joints[:, :, 0] += sway * np.resize([0.0, 1.0], len(frames))[:, None]
    return Body(np.array(frames), (joints + np.array(offset)).astype(np.float32))


def test_frames_without_any_body_are_dropped():
    assert len(ctrgcn([upright([2, 3, 7])])) == 3


def test_bodies_of_eleven_frames_are_dropped_and_of_twelve_kept():
    long, eleven, twelve = upright(range(20)), upright(range(11)), upright(range(12))
    assert without_short_bodies([long, eleven, twelve]) == [long, twelve]
    assert without_short_bodies([eleven]) == [eleven]  # somebody has to stay


def test_spread_counts_frames_wider_than_four_fifths_of_the_height():
    body = upright(range(4))
    body.joints[1, 4, 0] -= 1.0  # 2.0 wide, 2.0 high
    body.joints[2, 4, 0] -= 0.61  # 1.61 wide
    body.joints[3, 4, 0] -= 0.59  # 1.59 wide: just narrow enough
    assert narrow_frames(body).tolist() == [True, False, False, True]


def test_bodies_that_are_wide_in_seventy_percent_of_their_frames_are_dropped():
    mostly = upright(range(20))
    mostly.joints[:14, 4, 0] -= 2  # 14 of 20 frames: 0.7 >= 0.69754
    partly = upright(range(20))
    partly.joints[:13, 4, 0] -= 2  # 0.65
    slim = upright(range(20))
    assert without_wide_bodies([mostly, partly, slim]) == [partly, slim]
    assert without_wide_bodies([mostly]) == [mostly]
    other = upright(range(20))
    other.joints[:, 4, 0] -= 2
    assert without_wide_bodies([mostly, other]) == [other]  # in order; the last one stays


def test_motion_is_the_summed_variance_and_the_smaller_one_of_narrow_frames():
    still, swaying = upright(range(20)), upright(range(20), sway=0.5)
    height = np.linspace(-1, 1, 25).var()
    width = np.array([-0.5, 0.5] + 23 * [0]).var()
    assert motion(still) == pytest.approx(height + width, rel=1e-5)
    assert motion(swaying) == pytest.approx(height + width + 0.0625, rel=1e-5)  # +-0.25 about its mean
    swaying.joints[0, 4, 0] -= 100  # one absurd frame does not make it the main actor
    assert motion(swaying) == pytest.approx(height + width + np.resize([0.25, -0.25], 20)[1:].var(), rel=1e-2)
    assert by_motion([still, swaying]) == [swaying, still]


def test_the_body_that_moves_most_is_actor_one_and_its_first_spine_the_origin():
    still, swaying = upright(range(20), offset=(1, 0, 3)), upright(range(20), offset=(2, 0, 4), sway=0.5)
    actors = ctrgcn([still, swaying])
    assert actors.shape == (20, 2, 25, 3)
    origin = swaying.joints[0, 1]
    np.testing.assert_allclose(actors[:, 0], swaying.joints - origin, atol=1e-6)
    np.testing.assert_allclose(actors[:, 1], still.joints - origin, atol=1e-6)


def test_a_body_that_comes_after_goes_on_as_the_same_actor():
    first, later = upright(range(20), sway=0.5), upright(range(20, 34), offset=(5, 0, 3))
    actors = ctrgcn([first, later])
    assert not actors[:, 1].any()
    np.testing.assert_allclose(actors[20:, 0], later.joints - first.joints[0, 1], atol=1e-6)
    overlapping, third = upright(range(10, 30), sway=0.2), upright(range(30, 45), sway=0.1)
    actors = ctrgcn([first, overlapping, third])  # 0..19, 10..29 and 30..44: the third follows the first
    assert actors[40, 0].any()
    assert not actors[40, 1].any()
    assert not actors[25, 0].any()
    assert actors[25, 1].any()


def test_an_absent_actor_stays_zero_though_the_other_is_moved():
    for convention in (ctrgcn, prenormalize3d):
        actors = convention([upright(range(30), sway=0.5), upright(range(5, 20), offset=(1, 0, 3))])
        assert not actors[:5, 1].any()
        assert actors[5:20, 1].any()
        assert not actors[20:, 1].any()


def test_without_a_second_actor_its_place_is_zero():
    for convention in (ctrgcn, prenormalize3d):
        actors = convention([upright(range(3))])
        assert actors.shape == (3, 2, 25, 3)
        assert not actors[:, 1].any()


def test_prenormalize3d_keeps_the_main_actors_frames_and_exchanges_the_two():
    lively, lasting = upright(range(10), sway=0.5), upright(range(4, 30), offset=(1, 0, 3))
    actors = prenormalize3d([lasting, lively])  # the second in energy was seen in more frames: it becomes the main one
    assert len(actors) == 26
    assert actors[:, 0].any(axis=(1, 2)).all()
    assert actors[:, 1].any(axis=(1, 2)).tolist() == [True] * 6 + [False] * 20


def pyskl_axes(joints):
    """(x, y, z) with +y up as PYSKL's (x, z up): its x is ours, its y is -z, its z is y."""
    return np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1)


def test_prenormalize3d_puts_spine_on_z_and_level_shoulders_on_x_of_pyskls_axes():
    body = upright(range(4))
    body.joints[:, [4, 8], 1] = 0  # level, so that the second turn leaves the spine where it is
    tilt = np.array([[0.6, 0.0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]]) @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    seen = Body(body.frames, (body.joints @ tilt.T + np.array([1, 2, 3])).astype(np.float32))
    joints = pyskl_axes(prenormalize3d([seen]))[:, 0]
    np.testing.assert_allclose(joints[0, 1], 0, atol=1e-6)  # spine middle of frame 0 at the origin
    spine, across = joints[0, 1] - joints[0, 0], joints[0, 8] - joints[0, 4]
    np.testing.assert_allclose(spine / np.linalg.norm(spine), [0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(across / np.linalg.norm(across), [1, 0, 0], atol=1e-5)


def test_prenormalize3d_agrees_with_its_description_on_any_body():
    """PYSKL's steps, with SciPy's rotations about the common normals."""
    from scipy.spatial.transform import Rotation

    raw = np.random.default_rng(3).normal(size=(6, 1, 25, 3)).astype(np.float32)
    raw = (raw * np.array([1, 4, 1]) + 2).astype(np.float32)
    joints = raw - raw[0, 0, 1]

    def onto(vector, axis):
        normal = np.cross(vector, axis)
        angle = np.arccos(vector @ axis / np.linalg.norm(vector))
        return Rotation.from_rotvec(angle * normal / np.linalg.norm(normal)).as_matrix()

    joints = joints @ onto(joints[0, 0, 1] - joints[0, 0, 0], np.array([0, 0, 1.0])).T
    joints = joints @ onto(joints[0, 0, 8] - joints[0, 0, 4], np.array([1.0, 0, 0])).T
    np.testing.assert_allclose(pyskl_axes(prenormalize3d(bodies_of(raw))[:, :1]), joints, atol=1e-4)


def test_turn_brings_one_direction_onto_the_other():
    source, target = np.array([0.3, -2.0, 0.5]), np.array([0.0, 0.0, 1.0])
    matrix = turn(source, target)
    np.testing.assert_allclose(matrix @ source, [0, 0, np.linalg.norm(source)], atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(turn(target, 2 * target), np.eye(3))
    np.testing.assert_array_equal(turn(np.zeros(3), target), np.eye(3))


def test_nobody_and_an_unknown_convention():
    with pytest.raises(ValueError, match="no body in any frame"):
        ctrgcn([])
    with pytest.raises(ValueError, match="unknown actor convention 'x'; expected ctrgcn or prenormalize3d"):
        find_convention("x")
