"""Whom a recording shows: the two published ways to choose and place the actors of NTU RGB+D.

T frames, V joints. Kinect 2's joints: 0 spine base, 1 spine middle, 4 and 8 left and right shoulder.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

_FEWEST_FRAMES = 11
_WIDEST = 0.8
_MOST_NOISE = 0.69754
_PERSONS = 2
_SPINE_BASE, _SPINE, _LEFT_SHOULDER, _RIGHT_SHOULDER = 0, 1, 4, 8
_EPSILON = 1e-6


class Body(NamedTuple):
    """One tracked body: the frames that it was seen in, increasing, and its joints in them (metres)."""

    frames: Int[np.ndarray, " n"]
    joints: Float32[np.ndarray, "n V 3"]


Convention = Callable[[list[Body]], Float32[np.ndarray, "T 2 V 3"]]


def bodies_of(joints: Float[np.ndarray, "T M V 3"]) -> list[Body]:
    """The persons of an array as bodies; a person is absent from the frames where all its joints are 0."""
    there: np.ndarray = np.asarray(joints.any(axis=(2, 3)))
    return [
        Body(np.flatnonzero(there[:, person]), joints[there[:, person], person].astype(np.float32))
        for person in range(joints.shape[1])
        if there[:, person].any()
    ]


def ctrgcn(bodies: list[Body]) -> Float32[np.ndarray, "T 2 V 3"]:
    """SGN's and CTR-GCN's way (Zhang et al., CVPR 2020; Chen et al., ICCV 2021).

    Frames without a body are dropped. Where several bodies were tracked, those of at most 11 frames are dropped, then
    those whose x spread exceeds 0.8 of their y spread in at least 69.754 % of their frames; the rest are ranked by
    motion (variance of the joints, the smaller one of all frames and of the narrow frames). The first is actor 1; a
    body whose time does not overlap an actor's goes on as that actor. The spine middle of actor 1 in its first frame
    becomes the origin. An absent actor stays zero (CTR-GCN's script for NTU 120 copies actor 1 there; we do not).

    Raises:
        ValueError: no body at all.
    """
    bodies = _shown(bodies)
    seen = _seen(bodies)
    bodies = [Body(np.searchsorted(seen, body.frames), body.joints) for body in bodies]
    actors = np.zeros((len(seen), _PERSONS, *bodies[0].joints.shape[1:]), dtype=np.float32)
    ranked = bodies if len(bodies) == 1 else by_motion(without_wide_bodies(without_short_bodies(bodies)))
    spans: list[tuple[int, int] | None] = [None] * _PERSONS
    for body in ranked:
        first, last = int(body.frames[0]), int(body.frames[-1])
        for actor, span in enumerate(spans):
            begin, end = span or (0, 0)
            if (actor == 0 and span is None) or min(end, last) - max(begin, first) <= 0:
                actors[body.frames, actor] = body.joints
                spans[actor] = (first, last) if actor == 0 and span is None else (min(begin, first), max(end, last))
                break
    actors = actors[actors.any(axis=(1, 2, 3))]
    start = int(actors[:, 0].any(axis=(1, 2)).argmax())
    return _moved(actors, actors[start, 0, _SPINE])


def without_short_bodies(bodies: list[Body]) -> list[Body]:
    """Bodies of more than 11 frames; where there is none, the longest."""
    kept = [body for body in bodies if len(body.frames) > _FEWEST_FRAMES]
    return kept or [max(bodies, key=lambda body: len(body.frames))]


def without_wide_bodies(bodies: list[Body]) -> list[Body]:
    """Bodies that are narrower than high in enough frames; the last one left stays whatever its shape."""
    kept = list(bodies)
    for body in bodies:
        if len(kept) == 1:
            break
        if 1 - narrow_frames(body).mean() >= _MOST_NOISE:
            kept = [other for other in kept if other is not body]
    return kept


def narrow_frames(body: Body) -> np.ndarray:
    """Bool [n]: x spread at most 0.8 of the y spread."""
    spread = np.ptp(body.joints[..., :2], axis=1)
    return spread[:, 0] <= _WIDEST * spread[:, 1]


def motion(body: Body) -> float:
    """Sum of the variances of x, y and z over frames and joints, the smaller one of all and of the narrow frames."""
    narrow = narrow_frames(body)
    parts = [body.joints] if narrow.all() or not narrow.any() else [body.joints, body.joints[narrow]]
    return min(float(part.reshape(-1, 3).astype(np.float64).var(axis=0).sum()) for part in parts)


def by_motion(bodies: list[Body]) -> list[Body]:
    """The body that moves most first."""
    return sorted(bodies, key=motion, reverse=True)


def prenormalize3d(bodies: list[Body]) -> Float32[np.ndarray, "T 2 V 3"]:
    """2s-AGCN's and PYSKL's way (Shi et al., CVPR 2019; Duan et al., ACM MM 2022): PreNormalize3D.

    The two bodies of most energy (sum of the deviations of x, y and z) are kept, the main one first; if the second was
    seen in more frames they change places; frames without the main actor are dropped. The main actor's spine middle in
    frame 0 becomes the origin, its spine (0 to 1) is turned onto z, then its shoulders (4 to 8) onto x. So PYSKL has z
    up; here +y is up as everywhere: (x, y, z) is PYSKL's (x, z, -y). An absent actor stays zero.

    Raises:
        ValueError: no body at all.
    """
    bodies = _shown(bodies)
    seen = _seen(bodies)
    ranked = sorted(bodies, key=energy, reverse=True)[:_PERSONS]
    if len(ranked) > 1 and len(ranked[1].frames) > len(ranked[0].frames):
        ranked.reverse()
    joints = np.zeros((len(seen), _PERSONS, *ranked[0].joints.shape[1:]), dtype=np.float64)
    for person, body in enumerate(ranked):
        joints[np.searchsorted(seen, body.frames), person] = body.joints
    joints = joints[joints[:, 0].any(axis=(1, 2))]
    there = joints.any(axis=3, keepdims=True)
    joints = (joints - joints[0, 0, _SPINE]) * there
    joints = joints @ turn(joints[0, 0, _SPINE] - joints[0, 0, _SPINE_BASE], np.array([0.0, 0.0, 1.0])).T
    across = joints[0, 0, _RIGHT_SHOULDER] - joints[0, 0, _LEFT_SHOULDER]
    joints = joints @ turn(across, np.array([1.0, 0.0, 0.0])).T
    return (joints[..., [0, 2, 1]] * np.array([1, 1, -1])).astype(np.float32)


def energy(body: Body) -> float:
    """Sum of the deviations of x, y and z over frames and joints."""
    return float(body.joints.reshape(-1, 3).astype(np.float64).std(axis=0).sum())


def turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] (matrix times column) about their common normal that brings ``source`` onto ``target``.

    The identity where they are parallel, opposite or of no length, as in the published code.
    """
    axis = np.cross(source, target)
    size, length = float(np.linalg.norm(axis)), float(np.linalg.norm(source) * np.linalg.norm(target))
    if np.abs(axis).sum() < _EPSILON or length < _EPSILON:
        return np.eye(3)
    sin, cos = size / length, float(source @ target) / length
    x, y, z = axis / size
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sin * cross + (1 - cos) * cross @ cross


def _shown(bodies: list[Body]) -> list[Body]:
    """The bodies without those whose joints are 0 in every frame."""
    shown = [body for body in bodies if body.joints.any()]
    if not shown:
        raise ValueError("no body in any frame; leave the file out")
    return shown


def _seen(bodies: list[Body]) -> np.ndarray:
    return np.unique(np.concatenate([body.frames for body in bodies]))


def _moved(actors: np.ndarray, origin: np.ndarray) -> np.ndarray:
    there = actors.any(axis=(2, 3), keepdims=True)
    return (actors - origin) * there


CONVENTIONS: dict[str, Convention] = {"ctrgcn": ctrgcn, "prenormalize3d": prenormalize3d}


def find_convention(name: str) -> Convention:
    """The way called ``name``.

    Raises:
        ValueError: unknown.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"unknown actor convention {name!r}; expected {' or '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
