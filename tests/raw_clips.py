"""Small raw files of every format, self-made: nothing in them comes from a real dataset."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

BODY = 72057594037931101
OTHER = 72057594037931107  # equal to BODY as float64
UAV_NAME = "P007S01G10B00H10UC102000LC092000A031R0_09131758"


def person(seed: int, joints: int = 25, scale: float = 1.0) -> np.ndarray:
    """Random joints [V, 3], exact in float32, of a body that is higher than wide."""
    points = np.random.default_rng(seed).normal(size=(joints, 3)) * np.array([1.0, 4.0, 1.0]) * scale
    return points.astype(np.float32).astype(float)


def kinect_text(frames: list[dict[int, np.ndarray]], end: str = "\r\n") -> str:
    """NTU's and UAV-Human's text from joints [V, 3] by body id, frame by frame."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for identity, joints in bodies.items():
            lines += [f"{identity} 0 1 1 1 1 0 0.02 -0.1 2", str(len(joints))]
            lines += [" ".join(map(repr, joint.tolist())) + " 1 2 3 4 0 0 0 0 2" for joint in joints]
    return end.join(lines) + end


def ntu_text(length: int = 3, seed: int = 0) -> str:
    """Two bodies whose ids are one number as float64."""
    return kinect_text([{BODY: person(seed + t), OTHER: person(seed + 50 + t) * 3} for t in range(length)])


def uav_text(length: int = 3, seed: int = 0) -> str:
    """One body of 17 joints."""
    return kinect_text([{1: person(seed + t, 17)} for t in range(length)], end="\n")


def pku_text(length: int = 6, seed: int = 0) -> str:
    """A recording: the second body is there in the second half."""
    lines = []
    for t in range(length):
        second = person(seed + 90 + t) if 2 * t >= length else np.zeros((25, 3))
        numbers = np.concatenate([person(seed + t).ravel(), second.ravel()])
        lines.append(" ".join(f"{number:.6f}" for number in numbers))
    return "\n".join(lines) + "\n"


def pku_folder(folder: Path, *, phase: int = 1) -> Path:
    """Four recordings of six frames with two actions each; the L views test across views, 0003 across subjects."""
    last = "_v2" if phase == 2 else ""
    for name in ("Skeletons", "Train_Label", "Split"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    recordings = ["0002-L", "0002-M", "0003-L", "0003-R"]
    for number, name in enumerate(recordings):
        (folder / "Skeletons" / f"{name}.txt").write_text(pku_text(seed=1000 * number))
        (folder / "Train_Label" / f"{name}.txt").write_text("5,1,3,2\n51,2,6,1\n")
    dash = "_" if phase == 2 else "-"
    for word, tests in (("subject", {"0003-L", "0003-R"}), ("view", {"0002-L", "0003-L"})):
        halves = [", ".join(name for name in recordings if (name in tests) == half) for half in (False, True)]
        text = f"Training videos:\n{halves[0]},\nValidataion videos:\n{halves[1]}\n"
        (folder / "Split" / f"cross{dash}{word}{last}.txt").write_text(text)
    return folder


def ucla_json(name: str = "a04_s07_e03_v02", length: int = 3, label: int = 4) -> str:
    """One person of 20 joints."""
    frames = [person(t, 20).tolist() for t in range(length)]
    return json.dumps({"file_name": name, "skeletons": frames, "label": label})


def smarthome_json(length: int = 4, persons: int = 2) -> str:
    """``persons`` people in 640 x 480 pixels, the second from frame 1 on; frame 0 of three is empty."""
    random, frames = np.random.default_rng(0), []
    for t in range(length):
        people = [{"pose2d": (random.uniform(50, 400, 26)).round(2).tolist()} for _ in range(persons if t else 1)]
        frames.append(people)
    return json.dumps({"K": 1, "njts": 13, "frames": frames})


def matlab(matrix: np.ndarray, name: str = "d_skel", *, packed: bool = True) -> bytes:
    """A MATLAB 5 file with one matrix of doubles."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    body = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack(f"<{matrix.ndim}i", *matrix.shape))
    body += element(1, name.encode()) + element(9, np.asarray(matrix, dtype="<f8").tobytes(order="F"))
    whole = element(14, body)
    if packed:
        squeezed = zlib.compress(whole)
        whole = struct.pack("<II", 15, len(squeezed)) + squeezed
    return b"MATLAB 5.0 MAT-file, self-made".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + whole


def utd_mat(length: int = 3, seed: int = 0) -> bytes:
    """d_skel [20, 3, T]."""
    return matlab(np.stack([person(seed + t, 20) for t in range(length)], axis=2))


def pyskl(*, flat: bool = False, protocol: int = 2, length: int = 4) -> bytes:
    """Three annotations, 3D or 2D, as mmcv's dump (protocol 2) or a newer one writes them."""
    names = ["S001C001P001R001A001", "S001C002P001R001A002", "S001C002P003R001A050"]
    annotations = []
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        entry = {"frame_dir": name, "label": int(name[-3:]) - 1, "total_frames": length}
        if flat:
            entry |= {"img_shape": (1080, 1920), "original_shape": (1080, 1920)}
            entry["keypoint"] = random.uniform(0, 1000, (1 + number % 2, length, 17, 2)).astype(np.float16)
            entry["keypoint_score"] = random.uniform(0.2, 1, (1 + number % 2, length, 17)).astype(np.float16)
        else:
            points = random.normal(size=(1 + number % 2, length, 25, 3)) * np.array([1.0, 4.0, 1.0])
            entry["keypoint"] = points.astype(np.float16)
        annotations.append(entry)
    split = {"xsub_train": names[:2], "xsub_val": names[2:], "xview_train": names[1:], "xview_val": names[:1]}
    return pickle.dumps({"split": split, "annotations": annotations}, protocol=protocol)


def ctrgcn(length: int = 6, *, packed: bool = False) -> bytes:
    """Three training and two test clips of NTU 60; the second actor is there in some, the end is padded."""
    arrays = {}
    for half, size in (("train", 3), ("test", 2)):
        random = np.random.default_rng(size)
        x = np.zeros((size, length, 150), dtype=np.float32)
        for row in range(size):
            x[row, : length - row, : 75 * (1 + row % 2)] = random.normal(size=(length - row, 75 * (1 + row % 2)))
        y = np.zeros((size, 60))
        y[np.arange(size), random.integers(0, 60, size)] = 1
        arrays |= {f"x_{half}": x, f"y_{half}": y}
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    """A deflated archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


OWN_YAML = """
layout: kinect20
classes: [wave, sit down]
labels: '(?P<label>[a-z_]+)/s(?P<subject>\\d+)_'
test: {subject: [2]}
persons: 2
"""


def own_csv(length: int = 3, seed: int = 0) -> str:
    """A head line and a line a frame."""
    head = ",".join(f"j{v}{axis}" for v in range(20) for axis in "xyz")
    rows = [",".join(map(str, person(seed + t, 20).ravel())) for t in range(length)]
    return "\n".join([head, *rows]) + "\n"


def npy(array: np.ndarray) -> bytes:
    """What ``numpy.save`` writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def own_folder(folder: Path) -> Path:
    """Two classes, two subjects, the three formats."""
    (folder / "dataset.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.yaml").write_text(OWN_YAML)
    for label in ("wave", "sit_down"):
        (folder / label).mkdir(exist_ok=True)
        for subject in (1, 2):
            seed = 10 * subject + len(label)
            (folder / label / f"s{subject}_a.csv").write_text(own_csv(seed=seed))
            joints = np.stack([person(seed + 100 + t, 20) for t in range(3)])
            (folder / label / f"s{subject}_b.json").write_text(json.dumps({"joints": joints.tolist()}))
            (folder / label / f"s{subject}_c.npy").write_bytes(npy(joints[:, None].repeat(2, 1) + 0.5))
    return folder
