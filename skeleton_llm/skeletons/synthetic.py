"""Procedural human motion on NTU's 25 joints: the built-in dataset, made in seconds and the same on every machine.

20 subjects with their own bone lengths, tempo, amplitude and posture perform 20 actions; 3 cameras watch each
performance with their own sensor noise and dropped joints. Some actions differ only in one limb (left or right hand,
left or right foot), some only in the direction of time (sit down, stand up), four need two people.

T frames, V joints; angles in radians, lengths in metres, +y up, a body looks along its own +z and has its left at +x.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import NTU25

FRAMES_PER_SECOND = 30
SUBJECTS, REPLICATIONS = 20, 2
CAMERAS = (-0.8, 0.0, 0.8)  # yaw of each camera, radians
Pose = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """One person: ``bones`` scales each group of bones, the rest is manner."""

    height: float
    bones: dict[str, float]
    tempo: float
    amplitude: float
    lean: float
    elbow: float


def _ramp(t: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before ``start``, 1 after ``end``, smooth between."""
    x = np.clip((t - start) / (end - start), 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def _hold(t: np.ndarray, rise: float = 0.3, fall: float = 0.7) -> np.ndarray:
    """Up, stay, down."""
    return _ramp(t, 0.0, rise) - _ramp(t, fall, 1.0)


def _wave(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    up, beats = _hold(t, 0.25, 0.75), draw.uniform(2, 4)
    pose[f"arm_side_{side}"] += up * draw.uniform(0.8, 1.3)
    pose[f"fore_pitch_{side}"] += up * draw.uniform(2.2, 2.7)
    pose[f"fore_side_{side}"] += up * 0.5 * np.sin(2 * np.pi * beats * t)


def _kick(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    swing = _ramp(t, 0.25, 0.5) - _ramp(t, 0.55, 0.85)
    back = _ramp(t, 0.0, 0.2) - _ramp(t, 0.2, 0.4)
    pose[f"thigh_{side}"] += swing * draw.uniform(0.8, 1.2) - 0.4 * back
    pose[f"shin_{side}"] += swing * draw.uniform(0.7, 1.1) - 1.0 * back
    pose["lean"] -= 0.15 * swing


def _sit(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    down = _ramp(t, 0.15, 0.75)
    for leg in "lr":
        pose[f"thigh_{leg}"] += down * draw.uniform(1.35, 1.55)
        pose[f"fore_pitch_{leg}"] += down * draw.uniform(0.5, 1.1)
        pose[f"arm_pitch_{leg}"] += down * draw.uniform(0.1, 0.5)
    pose["lean"] += draw.uniform(0.5, 0.8) * (_ramp(t, 0.05, 0.4) - _ramp(t, 0.5, 0.85))
    pose["z"] -= 0.35 * down


def _pick_up(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    bend = _ramp(t, 0.0, 0.4) - _ramp(t, 0.45, 0.85)
    lift = _ramp(t, 0.5, 0.9)
    hands = "lr" if draw.random() < 0.3 else draw.choice(["l", "r"])
    pose["lean"] += bend * draw.uniform(0.9, 1.2)
    for leg in "lr":
        pose[f"thigh_{leg}"] += bend * draw.uniform(0.5, 0.9)
        pose[f"shin_{leg}"] -= bend * draw.uniform(0.4, 0.8)
    for hand in hands:
        pose[f"arm_pitch_{hand}"] += 0.9 * bend + 0.3 * lift
        pose[f"fore_pitch_{hand}"] += 0.9 * bend + lift * draw.uniform(1.3, 1.7)


def _walk(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    way = draw.uniform(1.2, 2.2)
    phase = 2 * np.pi * way / 1.3 * t + draw.uniform(0, 6.28)
    for sign, leg in ((1, "l"), (-1, "r")):
        pose[f"thigh_{leg}"] += sign * 0.45 * np.sin(phase)
        # the knee gives while its leg comes forward: what tells walking from walking backwards
        pose[f"shin_{leg}"] += sign * 0.45 * np.sin(phase) - 0.7 * np.clip(sign * np.cos(phase), 0, None)
        pose[f"arm_pitch_{leg}"] -= sign * 0.35 * np.sin(phase)
        pose[f"fore_pitch_{leg}"] -= sign * 0.35 * np.sin(phase) - 0.2
    pose["z"] += way * (t - 0.5)


def _clap(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    up, beats = _hold(t, 0.2, 0.8), draw.uniform(3, 5)
    for arm in "lr":
        pose[f"arm_pitch_{arm}"] += up * draw.uniform(0.5, 0.8)
        pose[f"fore_pitch_{arm}"] += up * draw.uniform(1.4, 1.7)
        pose[f"fore_side_{arm}"] -= up * (0.35 + 0.35 * np.sin(2 * np.pi * beats * t))


def _jump(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    beats = draw.integers(1, 4)
    wave = np.sin(2 * np.pi * beats * _ramp(t, 0.05, 0.95))
    pose["up"] += draw.uniform(0.15, 0.3) * np.clip(wave, 0, None)
    for leg in "lr":
        pose[f"thigh_{leg}"] += 0.7 * np.clip(-wave, 0, None)
        pose[f"shin_{leg}"] -= 0.7 * np.clip(-wave, 0, None)
        pose[f"arm_pitch_{leg}"] += draw.uniform(0.2, 0.7) * wave
    pose["lean"] += 0.25 * np.clip(-wave, 0, None)


def _shake_hands(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    out = _hold(t)
    pose["arm_pitch_r"] += 0.9 * out
    pose["fore_pitch_r"] += out * (1.35 + 0.15 * np.sin(2 * np.pi * draw.uniform(3, 5) * t))
    pose["z"] += 0.1 * out


def _hug(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    near = _hold(t, 0.4, 0.6)
    for arm in "lr":
        pose[f"arm_pitch_{arm}"] += near * draw.uniform(1.2, 1.5)
        pose[f"fore_pitch_{arm}"] += near * draw.uniform(1.3, 1.6)
        pose[f"fore_side_{arm}"] -= near * 0.5
        pose[f"arm_side_{arm}"] += near * 0.3
    pose["z"] += 0.33 * near
    pose["lean"] += 0.15 * near


def _approach(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    _walk(t, pose, draw, side)


def _raise_arms(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    up = _ramp(t, draw.uniform(0.1, 0.25), draw.uniform(0.7, 0.9))
    sideways = draw.uniform(0, 0.7)
    for arm in "lr":
        for part in ("arm", "fore"):
            pose[f"{part}_pitch_{arm}"] += up * draw.uniform(2.2, 2.7)
            pose[f"{part}_side_{arm}"] += np.sin(np.pi * up) * sideways


def _turn_left(t: np.ndarray, pose: Pose, draw: np.random.Generator, side: str) -> None:
    del side
    turn = _ramp(t, 0.1, 0.9)
    pose["yaw"] += turn * draw.uniform(1.3, 2.2)
    steps = np.sin(2 * np.pi * draw.uniform(1.5, 2.5) * turn) * np.sin(np.pi * turn)
    for sign, leg in ((1, "l"), (-1, "r")):
        pose[f"thigh_{leg}"] += 0.35 * np.clip(sign * steps, 0, None)
        pose[f"shin_{leg}"] -= 0.5 * np.clip(sign * steps, 0, None)


@dataclass(frozen=True)
class Action:
    """How an action's pose unfolds: ``move`` adds to the angles; ``reversed`` plays it backwards in time."""

    name: str
    move: Callable[[np.ndarray, Pose, np.random.Generator, str], None]
    side: str = ""
    seconds: float = 2.6
    people: int = 1
    reversed: bool = False


ACTIONS = (
    Action("wave the right hand", _wave, "r"),
    Action("wave the left hand", _wave, "l"),
    Action("kick with the right foot", _kick, "r", 1.8),
    Action("kick with the left foot", _kick, "l", 1.8),
    Action("sit down", _sit),
    Action("stand up", _sit, reversed=True),
    Action("pick something up", _pick_up),
    Action("put something down", _pick_up, reversed=True),
    Action("walk forwards", _walk),
    Action("walk backwards", _walk, reversed=True),
    Action("raise both arms", _raise_arms),
    Action("lower both arms", _raise_arms, reversed=True),
    Action("turn to the left", _turn_left),
    Action("turn to the right", _turn_left, reversed=True),
    Action("clap", _clap),
    Action("jump", _jump),
    Action("shake hands", _shake_hands, people=2),
    Action("hug each other", _hug, people=2),
    Action("walk towards each other", _approach, people=2),
    Action("walk apart", _approach, people=2, reversed=True),
)
CLASS_NAMES = tuple(action.name for action in ACTIONS)

_LENGTHS = {  # shares of a person's height
    "spine": 0.13, "chest": 0.17, "neck": 0.04, "head": 0.09, "shoulder": 0.11, "arm": 0.165, "fore": 0.145,
    "hand": 0.045, "tip": 0.04, "hip": 0.05, "thigh": 0.24, "shin": 0.235, "foot": 0.06,
}  # fmt: skip
_ANGLES = ("lean", "tilt", "nod", "yaw", "x", "z", "up")
_LIMB_ANGLES = ("arm_pitch", "arm_side", "fore_pitch", "fore_side", "thigh", "thigh_side", "shin")


def _draw_subject(draw: np.random.Generator) -> Subject:
    return Subject(
        height=draw.uniform(1.5, 1.95),
        bones={name: draw.uniform(0.92, 1.08) for name in _LENGTHS},
        tempo=draw.uniform(0.75, 1.3),
        amplitude=draw.uniform(0.8, 1.15),
        lean=draw.normal(0.05, 0.05),
        elbow=draw.uniform(0.1, 0.5),
    )


def _along(pitch: np.ndarray, side: np.ndarray, outward: float) -> np.ndarray:
    """Unit vectors [T, 3]: down, turned forwards by ``pitch``, then outwards by ``side``."""
    return np.stack([outward * np.sin(side), -np.cos(side) * np.cos(pitch), np.cos(side) * np.sin(pitch)], axis=-1)


def _turn(pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Matrices [T, 3, 3] (times column vectors): lean forwards by ``pitch``, then sideways by ``roll``."""
    zero, one = np.zeros_like(pitch), np.ones_like(pitch)
    cos, sin = np.cos(pitch), np.sin(pitch)
    forwards = np.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=-1).reshape(-1, 3, 3)
    cos, sin = np.cos(roll), np.sin(roll)
    sideways = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    return np.asarray(sideways @ forwards)


def pose_joints(pose: Pose, subject: Subject) -> np.ndarray:
    """Forward kinematics: angles [T] by name to joints [T, 25, 3] with the lower foot on the floor (y = 0)."""
    length = {name: share * subject.height * subject.bones[name] for name, share in _LENGTHS.items()}
    frames = len(pose["lean"])
    joints = np.zeros((frames, NTU25.num_joints, 3))
    at = {name: index for index, name in enumerate(NTU25.joints)}
    trunk = _turn(pose["lean"], pose["tilt"])
    up = trunk @ np.array([0.0, 1.0, 0.0])
    joints[:, at["spine middle"]] = length["spine"] * up
    shoulders = joints[:, at["spine middle"]] + length["chest"] * up
    joints[:, at["spine shoulder"]] = shoulders
    joints[:, at["neck"]] = shoulders + length["neck"] * up
    gaze = _turn(pose["lean"] + pose["nod"], pose["tilt"]) @ np.array([0.0, 1.0, 0.15])
    joints[:, at["head"]] = joints[:, at["neck"]] + length["head"] * gaze
    for outward, side, key in ((1.0, "left", "l"), (-1.0, "right", "r")):
        shoulder = shoulders + length["shoulder"] * (trunk @ np.array([outward, -0.1, 0.0]))
        fore = np.einsum("tij,tj->ti", trunk, _along(pose[f"fore_pitch_{key}"], pose[f"fore_side_{key}"], outward))
        arm = np.einsum("tij,tj->ti", trunk, _along(pose[f"arm_pitch_{key}"], pose[f"arm_side_{key}"], outward))
        elbow = shoulder + length["arm"] * arm
        wrist = elbow + length["fore"] * fore
        hand = wrist + length["hand"] * fore
        inward = trunk @ np.array([-outward, 0.0, 0.3])
        hip = length["hip"] * np.array([outward, -0.4, 0.0])
        knee = hip + length["thigh"] * _along(pose[f"thigh_{key}"], pose[f"thigh_side_{key}"], outward)
        ankle = knee + length["shin"] * _along(pose[f"shin_{key}"], pose[f"thigh_side_{key}"], outward)
        ahead = _along(pose[f"shin_{key}"] + np.pi / 2 - 0.3, pose[f"thigh_side_{key}"], outward)
        named = {
            "shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hand": hand, "hand tip": hand + length["tip"] * fore,
            "thumb": wrist + 0.6 * length["tip"] * (fore + inward), "hip": hip, "knee": knee, "ankle": ankle,
            "foot": ankle + length["foot"] * ahead,
        }  # fmt: skip
        for part, place in named.items():
            joints[:, at[f"{side} {part}"]] = place
    feet = joints[:, [at["left foot"], at["right foot"], at["left ankle"], at["right ankle"]], 1].min(axis=1)
    cos, sin = np.cos(pose["yaw"]), np.sin(pose["yaw"])
    x, z = joints[..., 0].copy(), joints[..., 2].copy() + pose["z"][:, None]
    joints[..., 0] = cos[:, None] * x + sin[:, None] * z + pose["x"][:, None]
    joints[..., 2] = cos[:, None] * z - sin[:, None] * x
    joints[..., 1] += (pose["up"] - feet)[:, None]
    return joints


def _rest(frames: int, subject: Subject, draw: np.random.Generator) -> Pose:
    """Standing at ease: the subject's posture, this clip's mood, slow sway, and now and then an idle arm."""
    t = np.linspace(0, 1, frames)

    def sway(size: float) -> np.ndarray:
        rate = draw.uniform(0.3, 1.2, size=2)
        phase = draw.uniform(0, 6.28, size=2)
        return np.asarray(
            size * (np.sin(6.28 * rate[0] * t + phase[0]) + 0.5 * np.sin(6.28 * 2 * rate[1] * t + phase[1]))
        )

    pose = {name: sway(0.02) for name in _ANGLES}
    for key in "lr":
        for name in _LIMB_ANGLES:
            pose[f"{name}_{key}"] = sway(0.06) if name.startswith(("arm", "fore")) else sway(0.015)
        bent = max(draw.normal(subject.elbow, 0.25), 0)
        pose[f"arm_side_{key}"] += draw.uniform(0.05, 0.3)
        pose[f"arm_pitch_{key}"] += draw.normal(0, 0.15)
        pose[f"fore_pitch_{key}"] += bent
        if draw.random() < 0.5:  # scratches, adjusts clothes: a short move that means nothing
            centre, width = draw.uniform(0.1, 0.9), draw.uniform(0.1, 0.2)
            idle = _ramp(t, centre - width, centre) - _ramp(t, centre, centre + width)
            pose[f"arm_pitch_{key}"] += draw.uniform(0.2, 1.0) * idle
            pose[f"fore_pitch_{key}"] += draw.uniform(0.5, 2.2) * idle
        pose[f"thigh_side_{key}"] += draw.uniform(0.02, 0.12)
    pose["lean"] += draw.normal(subject.lean, 0.1)
    pose["yaw"] += draw.normal(0, 0.4)
    for axis, size in (("x", 0.2), ("z", 0.35)):  # nobody stands still
        begin = draw.uniform(0, 0.5)
        pose[axis] += draw.normal(0, size) * _ramp(t, begin, begin + draw.uniform(0.3, 0.5))
    return pose


def _perform(action: Action, subject: Subject, frames: int, draw: np.random.Generator) -> np.ndarray:
    """One person's joints [T, 25, 3] in the room, looking along +z from the origin."""
    pose = _rest(frames, subject, draw)
    start, end = draw.uniform(0, 0.15), draw.uniform(0.85, 1)
    t = np.clip((np.linspace(0, 1, frames) - start) / (end - start), 0, 1)
    change = {name: np.zeros(frames) for name in pose}
    action.move(1 - t if action.reversed else t, change, draw, action.side)
    for key in "lr":
        if (
            abs(change[f"fore_pitch_{key}"]).max() < 0.6 and draw.random() < 0.6
        ):  # a free arm holds something, all along
            pose[f"arm_pitch_{key}"] += draw.uniform(-0.3, 1.0)
            pose[f"arm_side_{key}"] += draw.uniform(0, 0.5)
            pose[f"fore_pitch_{key}"] += draw.uniform(0, 2.2)
            pose[f"fore_side_{key}"] += draw.uniform(-0.6, 0.3)
    for name, angle in change.items():
        pose[name] = pose[name] + subject.amplitude * angle
    return pose_joints(pose, subject)


def performance(action: Action, actors: list[Subject], draw: np.random.Generator) -> np.ndarray:
    """One performance in the room: joints [T, 2, 25, 3], the second person zero where the action needs only one."""
    frames = round(FRAMES_PER_SECOND * action.seconds * draw.uniform(0.85, 1.2) / actors[0].tempo)
    joints = np.zeros((frames, 2, NTU25.num_joints, 3))
    apart = draw.uniform(0.85, 1.05) if action.move is not _approach else draw.uniform(2.4, 3.0)
    for person in range(action.people):
        joints[:, person] = _perform(action, actors[person], frames, draw)
        if action.people == 2:
            joints[:, person, :, 2] -= apart / 2
            if person == 1:  # faces the first: half a turn about +y
                joints[:, person, :, ::2] *= -1
    return joints


def watch(joints: np.ndarray, camera: int, draw: np.random.Generator) -> np.ndarray:
    """What a camera records of a performance: its view, jitter, drift, and joints that stick or jump while unseen."""
    angle = CAMERAS[camera] + draw.normal(0, 0.08)
    cos, sin = np.cos(angle), np.sin(angle)
    seen = joints @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    seen = seen * np.array([-1.0, 1.0, -1.0])  # the camera looks back at the person
    seen = seen + np.array([draw.normal(0, 0.3), -draw.uniform(0.9, 1.3), draw.uniform(2.5, 3.8)])
    frames, people = joints.shape[:2]
    there: np.ndarray = np.asarray(joints.any(axis=(0, 2, 3)))
    noise = draw.normal(0, 0.008, seen.shape)
    noise += np.cumsum(draw.normal(0, 0.002, seen.shape), axis=0)
    seen = seen + noise
    for person in np.flatnonzero(there):
        for _ in range(draw.poisson(3)):  # dropped joints
            joint, first = draw.integers(NTU25.num_joints), draw.integers(frames)
            gone = slice(first, first + draw.integers(3, 15))
            seen[gone, person, joint] = seen[first, person, joint] + draw.normal(0, 0.08, 3)
    seen[:, [person for person in range(people) if not there[person]]] = 0
    return seen.astype(np.float32)


def example_clip() -> Clip:
    """A subject of the test split who waves the right hand, recorded anew: no prepared dataset holds it."""
    subject = _draw_subject(np.random.default_rng([0, 0, 2]))
    scene = performance(ACTIONS[0], [subject], np.random.default_rng([1, 1, 2]))
    return Clip(watch(scene, 1, np.random.default_rng([1, 2, 2])), NTU25.name, 0, subject=3, view=2)


def synthetic_clips(seed: int = 0, *, subjects: int = SUBJECTS, replications: int = REPLICATIONS) -> Iterator[Clip]:
    """All clips, the same for the same seed: every subject, action, replication and camera.

    Each performance and each view of it has its own generator, so a part of the dataset equals that part of the whole.
    """
    people = [_draw_subject(np.random.default_rng([seed, 0, index])) for index in range(SUBJECTS)]
    for subject in range(subjects):
        for label, action in enumerate(ACTIONS):
            for replication in range(replications):
                draw = np.random.default_rng([seed, 1, subject, label, replication])
                partner = people[(subject + 1 + int(draw.integers(SUBJECTS - 1))) % SUBJECTS]
                scene = performance(action, [people[subject], partner], draw)
                for camera in range(len(CAMERAS)):
                    view = np.random.default_rng([seed, 2, subject, label, replication, camera])
                    yield Clip(
                        watch(scene, camera, view),
                        NTU25.name,
                        label,
                        subject=subject + 1,
                        view=camera + 1,
                        setup=1,
                        replication=replication + 1,
                        source=f"synthetic/s{subject + 1:02d}_a{label + 1:02d}_r{replication + 1}_c{camera + 1}",
                    )


if __name__ == "__main__":  # python -m skeleton_llm.skeletons.synthetic OUT.npy
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    np.save(sys.argv[1], example_clip().joints)
