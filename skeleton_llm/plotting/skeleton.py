"""A moving skeleton as an animated GIF."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skeleton_llm.skeletons import find_layout

_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44))
_SIZE, _MARGIN, _MOST_FRAMES = 320, 28, 100


def save_gif(path: Path | str, joints: np.ndarray, layout: str, title: str = "", *, milliseconds: int = 50) -> None:
    """Draw joints [T, M, V, 3] (+y up) as the camera sees them along z, a little from the side, and write a GIF.

    Absent persons (all joints zero) are left out; clips longer than 100 frames are thinned.
    """
    bones = find_layout(layout).bones
    joints = joints[:: -(-len(joints) // _MOST_FRAMES)]
    turned = joints @ np.array([[0.94, 0.0, -0.34], [0, 1, 0], [0.34, 0.0, 0.94]])
    seen: np.ndarray = np.asarray(joints.any(axis=(-1, -2)))
    flat = turned[..., :2]
    shown = flat[seen].reshape(-1, 2)
    low, high = (shown.min(0), shown.max(0)) if len(shown) else (np.zeros(2), np.ones(2))
    scale = (_SIZE - 2 * _MARGIN) / max(float((high - low).max()), 1e-3)
    place = (flat - (low + high) / 2) * scale * -1 + _SIZE / 2  # +x lies to the sensor's left
    font = ImageFont.load_default()
    frames = []
    for points, there in zip(place, seen, strict=True):
        image = Image.new("RGB", (_SIZE, _SIZE), "white")
        canvas = ImageDraw.Draw(image)
        for person in np.flatnonzero(there):
            colour = _COLOURS[person % len(_COLOURS)]
            for child, parent in bones:
                canvas.line([tuple(points[person, child]), tuple(points[person, parent])], fill=colour, width=3)
            for x, y in points[person]:
                canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill="black")
        canvas.text((8, 6), title, fill="black", font=font)
        frames.append(image)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
