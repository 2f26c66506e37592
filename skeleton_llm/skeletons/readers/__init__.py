"""One reader per public format; each turns raw files into ``Clip`` or says in one sentence why it cannot."""

from collections.abc import Callable, Mapping
from pathlib import Path

from skeleton_llm.skeletons.actors import bodies_of, find_convention
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LAYOUTS, NTU25, find_layout
from skeleton_llm.skeletons.readers.ctrgcn import read_ctrgcn, read_halves
from skeleton_llm.skeletons.readers.ntu import ntu_class_names, ntu_facts, ntu_missing, read_ntu
from skeleton_llm.skeletons.readers.nw_ucla import NW_UCLA_CLASSES, nw_ucla_facts, nw_ucla_missing, read_nw_ucla
from skeleton_llm.skeletons.readers.own import SUFFIXES, joints_of_json, read_joints, to_metres
from skeleton_llm.skeletons.readers.pku_mmd import read_recording
from skeleton_llm.skeletons.readers.pyskl import read_annotation, read_annotations
from skeleton_llm.skeletons.readers.raw_file import load_json, read_bytes, split_name
from skeleton_llm.skeletons.readers.smarthome import read_smarthome
from skeleton_llm.skeletons.readers.uav_human import read_uav_human
from skeleton_llm.skeletons.readers.utd_mhad import read_utd_mhad


def read_clip(path: Path | str, actors: str = "ctrgcn", own: Mapping[str, str] | None = None) -> Clip:
    """Read one raw clip by its suffix and content.

    ``.skeleton`` (NTU), ``.json`` (NW-UCLA, Smarthome or a list of joints), ``.mat`` (UTD-MHAD), ``.txt`` (UAV-Human or
    a whole PKU-MMD recording), ``.npy``, ``.csv``; out of a file of many clips by name: ARCHIVE.zip#ENTRY,
    PYSKL.pkl#FRAME_DIR, CTRGCN.npz#x_test/17. ``actors`` places NTU's and PKU-MMD's actors (``actors.CONVENTIONS``);
    ``own`` (layout, units, up) is how the user's own ``.npy``, ``.json`` and ``.csv`` are meant.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file that its reader refuses.
    """
    file, inside = split_name(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    suffix = (Path(inside).suffix if file.suffix == ".zip" and inside else file.suffix).lower()
    if suffix == ".zip":
        raise ValueError(f"{path}: holds many files; name one of them: {file}#ENTRY")
    if own is not None and suffix in SUFFIXES:
        joints = read_joints(file, find_layout(own["layout"]))
        return Clip(to_metres(joints, own["units"], own["up"]), own["layout"], source=str(file))
    readers: dict[str, Callable[[], Clip]] = {
        ".skeleton": lambda: read_ntu(path, actors),
        ".json": lambda: _read_json(file),
        ".mat": lambda: read_utd_mhad(file),
        ".txt": lambda: _read_text(path, actors),
        ".npy": lambda: _guess_layout(file),
        ".csv": lambda: _guess_layout(file),
        ".pkl": lambda: _read_pyskl(file, inside, actors),
        ".npz": lambda: _read_ctrgcn(file, inside),
    }
    if suffix not in readers:
        raise ValueError(f"{path}: unknown format {suffix!r}; expected one of {', '.join(readers)}, or one in a .zip")
    return readers[suffix]()


def _read_json(file: Path) -> Clip:
    data = load_json(file)
    if isinstance(data, dict) and "frames" in data:
        return read_smarthome(file, data)
    if isinstance(data, dict) and "joints" not in data:
        return read_nw_ucla(file, data)
    joints_of_json(file, data)
    return _guess_layout(file)


def _read_text(path: Path | str, actors: str) -> Clip:
    if len(read_bytes(path).split(b"\n", 1)[0].split()) == 1:
        return read_uav_human(path)
    joints = find_convention(actors)(bodies_of(read_recording(path)))
    return Clip(joints, NTU25.name, source=str(path))


def _guess_layout(file: Path) -> Clip:
    joints = read_joints(file)
    layout = next(name for name, known in LAYOUTS.items() if known.num_joints == joints.shape[2] and not known.planar)
    return Clip(joints, layout, source=str(file))


def _read_pyskl(file: Path, inside: str | None, actors: str) -> Clip:
    annotations = read_annotations(file)
    for annotation in annotations:
        if annotation.name == inside:
            return read_annotation(file, annotation, actors=actors)
    names = ", ".join(annotation.name for annotation in annotations[:3])
    raise ValueError(f"{file}: holds {len(annotations):,} clips ({names}, ...); name one of them: {file}#FRAME_DIR")


def _read_ctrgcn(file: Path, inside: str | None) -> Clip:
    halves = read_halves(file)
    half, _, row = (inside or "").removeprefix("x_").partition("/")
    if half not in halves or not row.isdigit() or int(row) >= len(halves[half].labels):
        sizes = ", ".join(f"x_{name}/0 to {len(found.labels) - 1}" for name, found in halves.items())
        raise ValueError(f"{file}: holds {sizes}; name one of them: {file}#x_test/0")
    clips, labels = halves[half]
    return read_ctrgcn(file, half, clips, int(row), int(labels[int(row)]), "")


__all__ = [
    "NW_UCLA_CLASSES",
    "ntu_class_names",
    "ntu_facts",
    "ntu_missing",
    "nw_ucla_facts",
    "nw_ucla_missing",
    "read_clip",
    "read_ntu",
    "read_nw_ucla",
]
