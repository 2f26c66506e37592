"""Generated NTU-like text: real motion of the synthetic dataset in the real files' form and size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.synthetic import synthetic_clips

_BODY = 72057594037931101  # + 6 for the second one: one number as float64


def texts(count: int, seed: int = 0) -> list[str]:
    """``count`` files of about 100 frames and 0.3 MB with one or two bodies, 12 columns a joint's line, CRLF."""
    random, found = np.random.default_rng(seed), []
    for clip, _ in zip(synthetic_clips(seed), range(count), strict=False):
        joints = np.repeat(clip.joints, 2, axis=0)[:100]
        lines = [str(len(joints))]
        for frame in joints:
            bodies = frame[frame.any(axis=(1, 2))]
            lines.append(str(len(bodies)))
            for body, points in enumerate(bodies):
                lines += [f"{_BODY + 6 * body} 0 1 1 1 1 0 {random.normal():.7g} {random.normal():.7g} 2", "25"]
                more = random.normal(size=(25, 8))
                lines += [
                    f"{x:.7g} {y:.7g} {z:.7g} {' '.join(f'{number:.7g}' for number in rest)} 2"
                    for (x, y, z), rest in zip(points.tolist(), more.tolist(), strict=True)
                ]
        found.append("\r\n".join(lines) + "\r\n")
    return found


def names() -> Iterator[str]:
    """Names of NTU's grid: setups, cameras, performers, replications, actions."""
    for performer in range(1, 107):
        for setup in range(1, 18):
            for camera in (1, 2, 3):
                for replication in (1, 2):
                    for action in range(1, 61):
                        yield f"S{setup:03d}C{camera:03d}P{performer:03d}R{replication:03d}A{action:03d}"


def write_files(folder: Path, count: int, seed: int = 0) -> None:
    """``count`` raw files, each with joints of its own."""
    some = [text.split("\r\n", 5) for text in texts(min(count, 120), seed)]
    for number, name in zip(range(count), names(), strict=False):
        head, rest = some[number % len(some)][:4], "\r\n".join(some[number % len(some)][4:])
        first, remainder = rest.split(" ", 1)
        moved = f"{float(first) + 1e-5 * (number // len(some)):.7g} {remainder}"
        (folder / f"{name}.skeleton").write_text("\r\n".join([*head, moved]), newline="")
