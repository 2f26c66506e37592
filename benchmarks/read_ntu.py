"""Parsing NTU's text against a line parser of CTR-GCN's kind, one process, the same files.

python -m benchmarks.read_ntu
"""

import numpy as np

from benchmarks.alternate import ratios, show
from benchmarks.raw_text import texts
from skeleton_llm.skeletons.readers.kinect_text import read_bodies, read_slowly

Bodies = dict[str, tuple[list[int], np.ndarray]]


def line_parser(text: str) -> Bodies:
    """The public kind: lines, ``split`` and ``float`` for each joint, ``vstack`` for each body and frame."""
    lines = text.splitlines()
    at, bodies = 1, {}
    for frame in range(int(lines[0])):
        count = int(lines[at])
        at += 1
        for _ in range(count):
            identity = lines[at].split()[0]
            joints = np.zeros((25, 3), dtype=np.float32)
            colours = np.zeros((25, 2), dtype=np.float32)
            for joint in range(25):
                fields = lines[at + 2 + joint].split()
                joints[joint] = np.array(fields[:3], dtype=np.float32)
                colours[joint] = np.array(fields[5:7], dtype=np.float32)
            at += 27
            if identity in bodies:
                frames, before = bodies[identity]
                bodies[identity] = ([*frames, frame], np.vstack([before, joints]))
            else:
                bodies[identity] = ([frame], joints)
    return bodies


def check(text: str) -> None:
    """The same coordinates bit for bit, and two bodies whose ids collide as float64 kept apart."""
    peer, ours = line_parser(text), read_bodies(text.encode(), "generated")
    assert len(peer) == len(ours)
    for (frames, joints), body in zip(peer.values(), ours, strict=True):
        assert frames == body.frames.tolist()
        np.testing.assert_array_equal(joints.reshape(-1, 25, 3).view(np.uint32), body.joints.view(np.uint32))


def main() -> None:
    """Print how many times faster than the line parser each reader is."""
    files = texts(40)
    for text in files:
        check(text)
    raw = [text.encode() for text in files]
    found = ratios(
        {
            "skeleton_llm read_bodies (ids as integers, all 12 columns checked)": lambda: [
                read_bodies(d, "x") for d in raw
            ],
            "the slow reader with line numbers": lambda: [read_slowly(data, 25, 12, "x") for data in raw],
            "line parser of CTR-GCN's kind": lambda: [line_parser(text) for text in files],
        }
    )
    size = sum(map(len, raw)) / len(raw) / 1e6
    show(f"time as a ratio to ours, {len(raw)} files of {size:.2f} MB, coordinates bit for bit equal", found)


if __name__ == "__main__":
    main()
