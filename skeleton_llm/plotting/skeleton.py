"""Moving skeletons as animated GIFs and contact sheets: the one place that draws them."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from skeleton_llm.skeletons import find_layout

_PALETTE = (255, 255, 255, 0, 0, 0, 31, 119, 180, 214, 39, 40, 44, 160, 44)  # a GIF needs no search for its colours
_WHITE, _BLACK, _PERSONS = 0, 1, (2, 3, 4)
_SIZE, _MARGIN, _MOST_FRAMES = 320, 28, 100
_ASIDE = np.array([[0.94, 0.0, -0.34], [0, 1, 0], [0.34, 0.0, 0.94]])  # the camera stands 20 degrees to the side
Joints = Float[np.ndarray, "T M V 3"]


def blank(width: int, height: int) -> Image.Image:
    """An empty picture with the palette that all of them share."""
    image = Image.new("P", (width, height), _WHITE)
    image.putpalette(_PALETTE)
    return image


def draw_frames(
    joints: Joints, layout: str, title: str = "", *, numbers: list[int] | None = None, beside: Joints | None = None
) -> list[Image.Image]:
    """Each frame of joints (+y up) as the camera sees it along z, a little from the side; 2D layouts as in the image.

    Bones and joints of the layout, a colour for each person, the title and the frame's number (``numbers``, by default
    from 0) of how many. A person whose joints are all zero in a frame is not drawn there. Place and size are chosen for
    the clip and for what will be shown ``beside`` it, so that the two can be compared.
    """
    kind = find_layout(layout)
    flat, *others = [(part if kind.planar else part @ _ASIDE)[..., :2] for part in (joints, beside) if part is not None]
    seen: np.ndarray = np.asarray(joints.any(axis=(-1, -2)))
    shown = flat[seen].reshape(-1, 2)
    if beside is not None:
        shown = np.concatenate([shown, others[0][beside.any(axis=(-1, -2))].reshape(-1, 2)])
    low, high = (shown.min(0), shown.max(0)) if len(shown) else (np.zeros(2), np.ones(2))
    scale = (_SIZE - 2 * _MARGIN) / max(float((high - low).max()), 1e-3)
    places = (flat - (low + high) / 2) * scale * -1 + _SIZE / 2  # +x lies to the sensor's left, +y up
    font = ImageFont.load_default()
    numbers = list(range(len(joints))) if numbers is None else numbers
    frames = []
    for number, points, there in zip(numbers, places, seen, strict=True):
        image = blank(_SIZE, _SIZE)
        canvas = ImageDraw.Draw(image)
        canvas.fontmode = "1"
        for person in np.flatnonzero(there):
            colour = _PERSONS[person % len(_PERSONS)]
            for child, parent in kind.bones:
                canvas.line([tuple(points[person, child]), tuple(points[person, parent])], fill=colour, width=3)
            for x, y in points[person]:
                canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_BLACK)
        canvas.text((8, 6), title, fill=_BLACK, font=font)
        canvas.text((8, _SIZE - 16), f"frame {number}", fill=_BLACK, font=font)
        frames.append(image)
    return frames


def draw_gif(joints: Joints, layout: str, title: str = "", *, milliseconds: int = 50) -> bytes:
    """A moving skeleton as the bytes of an animated GIF; clips longer than 100 frames are thinned."""
    step = -(-len(joints) // _MOST_FRAMES)
    frames = draw_frames(joints[::step], layout, title, numbers=list(range(0, len(joints), step)))
    return join_gif(frames, milliseconds=milliseconds * step)


def join_gif(frames: list[Image.Image], *, milliseconds: int = 50) -> bytes:
    """Images of one size as the bytes of an animated GIF that repeats."""
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def draw_sheet(joints: Joints, layout: str, title: str = "", *, columns: int = 4, rows: int = 2) -> Image.Image:
    """A contact sheet: frames from the first to the last in even steps, row by row."""
    chosen = np.unique(np.linspace(0, len(joints) - 1, columns * rows).round().astype(int))
    frames = draw_frames(joints[chosen], layout, title, numbers=chosen.tolist())
    sheet = blank(_SIZE * min(columns, len(frames)), _SIZE * -(-len(frames) // columns))
    for index, frame in enumerate(frames):
        sheet.paste(frame, (_SIZE * (index % columns), _SIZE * (index // columns)))
    return sheet


def save_gif(path: Path | str, joints: Joints, layout: str, title: str = "") -> None:
    """Write ``draw_gif`` to a file; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(draw_gif(joints, layout, title))


def save_sheet(path: Path | str, joints: Joints, layout: str, title: str = "") -> None:
    """Write ``draw_sheet`` as a PNG file; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(joints, layout, title).save(path, "PNG")
