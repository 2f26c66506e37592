"""``skeleton-llm show``: look at one clip, raw or prepared."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skeleton_llm.skeletons import Clip, PreparedDataset
from skeleton_llm.skeletons.actors import CONVENTIONS
from skeleton_llm.skeletons.readers import read_clip
from skeleton_llm.skeletons.readers.own import DESCRIPTION, SUFFIXES, read_description
from skeleton_llm.skeletons.readers.raw_file import split_name


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm show",
        description="Draw a clip: a raw file, FILE_OF_MANY#CLIP, or PREPARED_FOLDER#ROW or #NAME.",
        allow_abbrev=False,
    )
    parser.add_argument("clip")
    parser.add_argument("--gif", type=Path, help="write the moving skeleton here")
    parser.add_argument("--png", type=Path, help="write a contact sheet of eight frames here")
    parser.add_argument("--actors", choices=sorted(CONVENTIONS), default="ctrgcn", help="as for prepare")
    return parser.parse_args(argv)


def find_clip(place: str, actors: str = "ctrgcn") -> tuple[Clip, str]:
    """The clip at ``place`` and what it is called: its class where that is known.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it cannot be read, or a folder is given without saying which clip of it.
    """
    path, inside = split_name(place)
    if not path.is_dir():
        return read_clip(place, actors, _own_convention(path)), Path(place).name
    data = PreparedDataset.open(path)
    rows = [row for row, name in enumerate(data.sources) if inside == name]
    rows = rows or ([int(inside)] if inside is not None and inside.isdigit() and int(inside) < len(data) else [])
    rows = rows or [row for row, name in enumerate(data.sources) if inside == Path(name).stem]
    if len(rows) != 1:
        raise ValueError(
            f"{place}: say which clip, {path}#ROW (0 to {len(data) - 1}) or {path}#NAME (such as {data.sources[0]})"
        )
    clip = data.clip(rows[0])
    label = "" if clip.label is None else data.info["class_names"][clip.label]
    return clip, f"{clip.source}: {label}" if label else clip.source


def _own_convention(path: Path) -> dict[str, str] | None:
    """How clips beside or below a ``dataset.yaml`` are meant; None where there is none."""
    for folder in path.resolve().parents:
        if (folder / DESCRIPTION).is_file() and path.suffix.lower() in SUFFIXES:
            return read_description(folder / DESCRIPTION).convention()
    return None


def show(argv: Sequence[str]) -> int:
    """Draw one clip."""
    arguments = _arguments(argv)
    from skeleton_llm.plotting import save_gif, save_sheet

    try:
        clip, title = find_clip(arguments.clip, arguments.actors)
        if arguments.gif is not None:
            save_gif(arguments.gif, clip.joints, clip.layout, title)
        if arguments.png is not None:
            save_sheet(arguments.png, clip.joints, clip.layout, title)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    frames, persons = clip.joints.shape[:2]
    there = int(clip.joints.any(axis=(0, 2, 3)).sum())
    print(f"{title}: {frames} frames, {there} of {persons} persons, {clip.layout}")
    for path in (arguments.gif, arguments.png):
        if path is not None:
            print(path)
    return 0
