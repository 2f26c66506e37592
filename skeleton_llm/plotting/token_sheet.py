"""Single poses side by side: what a token looks like where clips use it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skeleton_llm.plotting.skeleton import blank, draw_frames

_CELL, _CAPTION, _COLUMNS, _LETTERS = 160, 32, 3, 28
_BLACK = 1  # of the shared palette


class Pose(NamedTuple):
    """One frame's joints [M, V, 3] with a line or two of text."""

    joints: np.ndarray
    caption: str


def draw_poses(poses: Sequence[Pose], layout: str) -> Image.Image:
    """A contact sheet of small poses, three a row, each above its caption; persons that are all 0 are left out."""
    rows = -(-len(poses) // _COLUMNS)
    sheet = blank(_CELL * min(len(poses), _COLUMNS), (_CELL + _CAPTION) * rows)
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    canvas.fontmode = "1"
    for index, pose in enumerate(poses):
        x, y = _CELL * (index % _COLUMNS), (_CELL + _CAPTION) * (index // _COLUMNS)
        sheet.paste(_small(draw_frames(pose.joints[None], layout)[0]), (x, y))
        lines = [line if len(line) <= _LETTERS else line[: _LETTERS - 3] + "..." for line in pose.caption.split("\n")]
        canvas.multiline_text((x + 4, y + _CELL), "\n".join(lines), fill=_BLACK, font=font, spacing=2)
    return sheet


def _small(image: Image.Image) -> Image.Image:
    """Halved without losing thin lines: of four pixels the highest in the palette, whose lowest is the background."""
    pixels = np.array(image)
    pixels[-24:] = 0  # the frame's number, which the caption tells
    halved = Image.fromarray(np.maximum.reduce([pixels[i::2, j::2] for i in (0, 1) for j in (0, 1)]))
    halved.putpalette(blank(1, 1).getpalette() or [])
    return halved
