"""Every dataset that can be prepared: where its raw clips are, what they are called, what the published ones are."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skeleton_llm.skeletons.class_names import class_names
from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.readers import ctrgcn, ntu, nw_ucla, own, pku_mmd, pyskl, smarthome, uav_human, utd_mhad
from skeleton_llm.skeletons.readers.raw_file import open_archive
from skeleton_llm.skeletons.table import Table


class Item(NamedTuple):
    """A clip that waits to be read by ``read(*arguments)``.

    ``name`` is what reports and the prepared dataset call it, whatever folder or archive it lies in; ``facts`` what the
    name tells; ``file`` and ``stamp`` (size, time of change) where it lies.
    """

    name: str
    read: Callable[..., Clip]
    arguments: tuple[Any, ...]
    facts: Mapping[str, int]
    file: Path
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The clips of a raw folder, in order, and the form that they will have."""

    items: list[Item]
    layout: str
    num_persons: int
    classes: Mapping[str, str]
    form: str
    own: Mapping[str, str] | None = None  # units and axes of the user's own files


def _nothing_missing(table: Table, names: Iterable[str]) -> list[str]:
    del table, names
    return []


@dataclass(frozen=True)
class Source:
    """How a dataset is found: ``expects`` says in words what must lie in the raw folder."""

    name: str
    expects: str
    find: Callable[[Path, str], Found]
    unusable: Callable[[], frozenset[str]] = frozenset
    missing: Callable[[Table, Iterable[str]], list[str]] = _nothing_missing


def find_clips(source: Source, raw: Path, actors: str = "ctrgcn") -> Found:
    """The raw clips of ``source`` in a folder, or in a single file that holds many.

    Raises:
        FileNotFoundError: no such folder, or nothing of this dataset in it.
        ValueError: two forms of the dataset in one folder, or a damaged archive.
    """
    if not raw.exists():
        raise FileNotFoundError(f"{raw}: no such folder; expected {source.expects} in it")
    found = source.find(raw, actors)
    if not found.items:
        raise FileNotFoundError(f"{raw}: holds no raw clip of {source.name}; expected {source.expects}")
    return found


def _files(raw: Path, *suffixes: str) -> list[Path]:
    candidates = [raw] if raw.is_file() else raw.rglob("*")
    return sorted((path for path in candidates if path.suffix.lower() in suffixes and path.is_file()), key=_by_name)


def _by_name(path: Path) -> tuple[str, str]:
    return path.name, str(path)


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _one_a_file(
    paths: Iterable[Path], read: Callable[..., Clip], facts: Callable[[str], dict[str, int] | None], *more: Any
) -> list[Item]:
    return [Item(path.name, read, (path, *more), facts(path.name) or {}, path, _stamp(path)) for path in paths]


def _entries(
    raw: Path, suffix: str, read: Callable[..., Clip], facts: Callable[[str], dict[str, int] | None], *more: Any
) -> list[Item]:
    """Files with ``suffix`` in zip archives."""
    items = []
    for archive in _files(raw, ".zip"):
        stamp = _stamp(archive)
        for info in open_archive(archive).infolist():
            name = info.filename.rpartition("/")[2]
            if name.endswith(suffix) and not info.is_dir() and not name.startswith("."):
                place = f"{archive}#{info.filename}"
                items.append(Item(name, read, (place, *more), facts(name) or {}, archive, (info.CRC, stamp[0])))
    return sorted(items, key=lambda item: (item.name, str(item.arguments[0])))


def _find_ntu(classes: int) -> Callable[[Path, str], Found]:
    dataset, names = f"ntu{classes}", dict(list(class_names("ntu").items())[:classes])

    def find(raw: Path, actors: str) -> Found:
        loose = _one_a_file(_files(raw, ".skeleton"), ntu.read_ntu, ntu.ntu_facts, actors)
        packed = _entries(raw, ".skeleton", ntu.read_ntu, ntu.ntu_facts, actors)
        pickles, arrays = _files(raw, ".pkl"), _files(raw, ".npz")
        kinds = {".skeleton": loose, ".zip": packed, ".pkl": pickles, ".npz": arrays}
        present = [kind for kind, found in kinds.items() if found]
        if len(present) > 1 or len(pickles) > 1 or len(arrays) > 1:
            several = " and ".join(present) + " files" if len(present) > 1 else f"several {present[0]} files"
            raise ValueError(f"{raw}: holds {several} of NTU; give the one to read as --raw FILE, or its own folder")
        if pickles:
            return _find_pyskl(pickles[0], dataset, actors, names)
        if arrays:
            return _find_ctrgcn(arrays[0], dataset, actors, names)
        return Found(loose or packed, "ntu25", 2, names, "raw .skeleton text" + (", zipped" if packed else ""))

    return find


def _find_pyskl(path: Path, dataset: str, actors: str, names: Mapping[str, str]) -> Found:
    annotations, stamp = pyskl.read_annotations(path), _stamp(path)
    if not annotations:
        raise ValueError(f"{path}: holds no annotation")
    layouts = {annotation.layout.name for annotation in annotations}
    if len(layouts) > 1:
        raise ValueError(f"{path}: some clips are 2D and some 3D; expected one kind")
    items = [
        Item(a.name, pyskl.read_annotation, (path, a, dataset, actors), ntu.ntu_facts(a.name) or {}, path, stamp)
        for a in annotations
    ]
    layout = layouts.pop()
    return Found(items, layout, 2, names, "PYSKL " + ("2D poses" if layout.endswith("2d") else "3D annotations"))


def _find_ctrgcn(path: Path, dataset: str, actors: str, names: Mapping[str, str]) -> Found:
    if actors != "ctrgcn":
        raise ValueError(f"{path}: its actors were chosen and placed by CTR-GCN already; leave out --actors {actors}")
    protocol, stamp = f"{dataset}_{ctrgcn.ctrgcn_protocol(path)}", _stamp(path)
    items = []
    for half, (clips, labels) in ctrgcn.read_halves(path).items():
        for row, label in enumerate(labels.tolist()):
            facts = {"label": label, f"test:{protocol}": int(half == "test")}
            arguments = (path, half, clips, row, label, protocol)
            items.append(Item(f"x_{half}/{row}", ctrgcn.read_ctrgcn, arguments, facts, path, stamp))
    return Found(items, "ntu25", 2, names, "CTR-GCN arrays")


def _find_nw_ucla(raw: Path, actors: str) -> Found:
    del actors
    items = _one_a_file(_files(raw, ".json"), nw_ucla.read_nw_ucla, nw_ucla.nw_ucla_facts)
    return Found(items, "kinect20", 1, class_names("nw_ucla"), "JSON")


def _find_utd_mhad(raw: Path, actors: str) -> Found:
    del actors
    items = _one_a_file(_files(raw, ".mat"), utd_mhad.read_utd_mhad, utd_mhad.utd_mhad_facts)
    return Found(items, "kinect20", 1, class_names("utd_mhad"), "MATLAB")


def _find_smarthome(raw: Path, actors: str) -> Found:
    del actors
    items = _one_a_file(_files(raw, ".json"), smarthome.read_smarthome, smarthome.smarthome_facts)
    return Found(items, "lcr17_2d", 2, class_names("smarthome"), "JSON")


def _find_uav_human(raw: Path, actors: str) -> Found:
    del actors
    loose = _one_a_file(_files(raw, ".txt"), uav_human.read_uav_human, uav_human.uav_human_facts)
    loose = [item for item in loose if item.facts]
    items = loose or _entries(raw, ".txt", uav_human.read_uav_human, uav_human.uav_human_facts)
    return Found(items, "coco17", 2, class_names("uav_human"), "text")


def _refuse(why: str) -> Clip:
    raise ValueError(why)


def _find_pku_mmd(phase: int) -> Callable[[Path, str], Found]:
    def find(raw: Path, actors: str) -> Found:
        splits, items = pku_mmd.find_splits(raw, phase), []
        found = pku_mmd.find_recordings(raw)
        for name in sorted({*found, *(name for halves in splits.values() for name in halves)}):
            skeleton, label = found.get(name, (None, None))
            halves = {protocol: of[name] for protocol, of in splits.items() if name in of}
            facts = {f"test:{protocol}": half for protocol, half in halves.items()}
            file = skeleton or label or raw
            try:
                if not halves:
                    raise ValueError(f"{file}: {name} is in no split file; is it of the other phase?")
                if skeleton is None or label is None:
                    raise FileNotFoundError(f"{raw}: {name} has no {'skeleton' if skeleton is None else 'label'} file")
                actions = pku_mmd.read_labels(label)
            except (OSError, ValueError) as error:
                items.append(Item(name, _refuse, (str(error),), facts, file, (0, 0)))
                continue
            stamp = (_stamp(skeleton)[0], _stamp(skeleton)[1] + _stamp(label)[1])
            for number, action in enumerate(actions, start=1):
                clip = f"{name}/{number:03d}"
                arguments = (skeleton, action, clip, halves, actors)
                items.append(
                    Item(clip, pku_mmd.read_pku_mmd, arguments, {"label": action.label, **facts}, skeleton, stamp)
                )
        return Found(items if found else [], "ntu25", 2, class_names("pku_mmd"), f"phase {phase}")

    return find


def _find_own(raw: Path, actors: str) -> Found:
    del actors
    folder = raw.parent if raw.is_file() else raw
    description = own.read_description(raw if raw.is_file() else raw / own.DESCRIPTION)
    items = []
    for path in _files(folder, *own.SUFFIXES):
        name = path.relative_to(folder).as_posix()
        try:
            facts = description.facts(name)
            facts["test:own"] = int(description.is_test(name, facts))
        except ValueError:
            facts = {}
        items.append(Item(name, own.read_own, (path, description, name), facts, path, _stamp(path)))
    classes = {str(index): name for index, name in enumerate(description.classes)}
    layout, persons = description.layout.name, description.persons
    items.sort(key=lambda item: item.name)
    return Found(items, layout, persons, classes, "own clips", description.convention())


def _missing_by_class(counts: tuple[int, ...], names: list[str]) -> Callable[[Table, Iterable[str]], list[str]]:
    def missing(table: Table, found: Iterable[str]) -> list[str]:
        del found
        have = np.bincount(table["label"][table["label"] >= 0], minlength=len(counts))
        return [
            f"{name!r}: {have[label]:,} of {counts[label]:,}"
            for label, name in enumerate(names)
            if have[label] < counts[label]
        ]

    return missing


def _missing_nw_ucla(table: Table, names: Iterable[str]) -> list[str]:
    del names
    return nw_ucla.nw_ucla_missing(table["label"], table["view"])


def _missing_utd_mhad(table: Table, names: Iterable[str]) -> list[str]:
    del table
    have = {Path(name).stem for name in names}
    return [f"{name}.mat" for name in utd_mhad.utd_mhad_expected() if name not in have]


def _missing_ntu(pairs: tuple[int, ...]) -> Callable[[Table, Iterable[str]], list[str]]:
    """NTU is a full grid: every action, camera and replication of each pair of a setup and a performer.

    ``pairs`` are the numbers of such pairs among setups 1 to 17 (actions 1 to 60) and 18 to 32 (61 to 120).
    """

    def missing(table: Table, names: Iterable[str]) -> list[str]:
        if not (table["setup"] > 0).all():
            return []
        have = {Path(name).stem for name in names} | ntu.ntu_missing()
        present = sorted(set(zip(table["setup"].tolist(), table["subject"].tolist(), strict=True)))
        said = []
        for part, whole in enumerate(pairs):
            here = [pair for pair in present if (pair[0] > 17) == bool(part)]
            if len(here) < whole:
                setups = f"S{18 if part else 1:03d} to S{32 if part else 17:03d}"
                absent = whole - len(here)
                said.append(
                    f"{absent} of {whole} setup-performer pairs of {setups} without any clip ({absent * 360:,})"
                )
        for setup, performer in present:
            first = 61 if setup > 17 else 1
            for camera, replication, action in product((1, 2, 3), (1, 2), range(first, first + 60)):
                name = f"S{setup:03d}C{camera:03d}P{performer:03d}R{replication:03d}A{action:03d}"
                if name not in have:
                    said.append(name)
        return said

    return missing


_SMARTHOME = _missing_by_class(smarthome.COUNTS, list(class_names("smarthome")))
SOURCES = {
    source.name: source
    for source in (
        Source("ntu60", "SsssCcccPpppRrrrAaaa.skeleton files, the official .zip, a PYSKL .pkl or a CTR-GCN .npz",
               _find_ntu(60), ntu.ntu_missing, _missing_ntu((158,))),
        Source("ntu120", "SsssCcccPpppRrrrAaaa.skeleton files, both official .zip, a PYSKL .pkl or a CTR-GCN .npz",
               _find_ntu(120), ntu.ntu_missing, _missing_ntu((158, 160))),
        Source("nw_ucla", "aAA_sSS_eEE_vVV.json files", _find_nw_ucla, missing=_missing_nw_ucla),
        Source("utd_mhad", "aA_sS_tT_skeleton.mat files", _find_utd_mhad, missing=_missing_utd_mhad),
        Source("smarthome", "Class_pPP_rRR_vVV_cCC.json files", _find_smarthome, missing=_SMARTHOME),
        Source("uav_human", "P...S...A...R..._....txt files", _find_uav_human),
        Source("pku_mmd1", "the folders of skeletons and labels, cross-subject.txt and cross-view.txt",
               _find_pku_mmd(1)),
        Source("pku_mmd2", "the folders of skeletons and labels, cross_subject_v2.txt and cross_view_v2.txt",
               _find_pku_mmd(2)),
        Source("own", f"{own.DESCRIPTION} and {', '.join(own.SUFFIXES)} files", _find_own),
    )
}  # fmt: skip
