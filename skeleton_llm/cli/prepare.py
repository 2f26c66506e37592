"""``skeleton-llm prepare``: raw files to a prepared dataset, every file accounted for."""

import argparse
import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from skeleton_llm.skeletons import PROTOCOLS, Clip, DatasetWriter, PreparedDataset, find_layout, write_dataset
from skeleton_llm.skeletons.actors import CONVENTIONS
from skeleton_llm.skeletons.proof import enumerate_missing, prove_splits
from skeleton_llm.skeletons.reading import read_all
from skeleton_llm.skeletons.sources import SOURCES, Found, Source, find_clips
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips
from skeleton_llm.skeletons.table import LeftOut
from skeleton_llm.skeletons.writer import check_target, library_version

_SYNTHETIC_CLIPS = len(CLASS_NAMES) * 20 * 2 * 3
_SHOWN = 100
_BYTES_A_CLIP = 100 * 4 * 3  # per person and joint: a guess for the disk check, 100 frames of float32


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm prepare",
        description="Read raw skeleton files into a prepared dataset (a folder). Interrupted, the same command goes on."
        " Exit code 1: some files were bad.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=sorted([*SOURCES, "synthetic"]))
    parser.add_argument("--raw", type=Path, help="folder of raw files, searched with its sub-folders; or one file")
    parser.add_argument("--out", type=Path, help="folder to write (data/DATASET)")
    parser.add_argument("--actors", choices=sorted(CONVENTIONS), default="ctrgcn", help="how NTU's and PKU-MMD's two"
                        " actors are chosen and placed (docs/datasets.md); ctrgcn by default")  # fmt: skip
    parser.add_argument("--workers", type=int, help="reading processes; one a core by default")
    parser.add_argument("--allow-bad", action="store_true", help="accept that damaged files are left out: exit code 0")
    parser.add_argument("--partial", action="store_true", help="accept fewer clips than the protocols publish")
    return parser.parse_args(argv)


def prepare(argv: Sequence[str]) -> int:
    """Prepare one dataset."""
    arguments = _arguments(argv)
    out = arguments.out or Path("data") / arguments.dataset
    try:
        _check_folders(arguments.raw, out)
        if arguments.dataset == "synthetic":
            return _prepare_synthetic(out)
        return _prepare(SOURCES[arguments.dataset], out, arguments)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "begins anew" if arguments.dataset == "synthetic" else "goes on where it stopped"
        print(f"interrupted; the same command {again}", file=sys.stderr)
        return 130


def _prepare_synthetic(out: Path) -> int:
    clips: Iterator[Clip] = iter(
        tqdm(synthetic_clips(), total=_SYNTHETIC_CLIPS, unit="clip", desc="making", file=sys.stderr, mininterval=1)
    )
    info = write_dataset(
        out,
        clips,
        name="synthetic",
        layout="ntu25",
        class_names=CLASS_NAMES,
        num_persons=2,
        source="built-in",
        class_ids=[str(i) for i in range(len(CLASS_NAMES))],
    )
    train, test = PROTOCOLS["synthetic_xsub"].split(PreparedDataset.open(out).table)
    print(f"{out}: {info['num_clips']:,} clips of {len(CLASS_NAMES)} classes, ntu25")
    print(f"  synthetic_xsub: {len(train):,} training clips, {len(test):,} test clips")
    return 0


def _prepare(source: Source, out: Path, arguments: argparse.Namespace) -> int:
    if arguments.raw is None:
        raise ValueError(
            f"{source.name} needs its raw files: give their folder with --raw (make prepare DATA={source.name} RAW=...)"
        )
    found = find_clips(source, arguments.raw, arguments.actors)
    _check_disk(out, found)
    names = list(found.classes.values())
    plan = {"actors": arguments.actors, "version": library_version(), "items": _fingerprint(found), "out": out.name}
    with DatasetWriter(out, layout=found.layout, num_persons=found.num_persons, plan=plan) as writer:
        if writer.table.done:
            print(f"{writer.part}: going on after {writer.table.done:,} of {len(found.items):,}", file=sys.stderr)
        with tqdm(
            total=len(found.items),
            initial=writer.table.done,
            unit="clip",
            desc="reading",
            file=sys.stderr,
            smoothing=0.05,
            mininterval=1,
        ) as bar:
            rest = found.items[writer.table.done :]
            for batch in read_all(rest, source.unusable(), len(names), workers=arguments.workers, progress=bar.update):
                writer.add(batch.clips, batch.left_out, items=batch.items)
        bad = [entry for entry in writer.table.left_out if entry["kind"] == "bad"]
        try:
            return _finish(writer, source, found, arguments, bad)
        finally:
            _report_bad(bad)


def _finish(
    writer: DatasetWriter, source: Source, found: Found, arguments: argparse.Namespace, bad: Sequence[LeftOut]
) -> int:
    table = writer.table
    if not table.frames:
        raise ValueError(
            f"{arguments.raw}: no clip could be read, nothing was prepared; check the folder given as --raw"
        )
    proofs = prove_splits(source.name, table.columns(), table.rows["source"], table.left_out)
    if not proofs:
        raise ValueError(
            f"{arguments.raw}: these files tell the halves of no protocol of {source.name}; is the dataset right?"
        )
    for proof in proofs:
        if proof.problem is not None and not arguments.partial:
            raise ValueError(proof.problem)
    accepted = {proof.protocol: [proof.training.bad, proof.test.bad] for proof in proofs} if arguments.allow_bad else {}
    info = writer.finish(
        source.name,
        list(found.classes.values()),
        str(arguments.raw),
        class_ids=list(found.classes),
        form=found.form,
        actors=arguments.actors,
        accepted=accepted,
        partial={proof.protocol: proof.missing for proof in proofs if proof.problem is not None},
        **({} if found.own is None else {"own": dict(found.own)}),
    )
    why = Counter(entry["kind"] for entry in table.left_out)
    print(f"{writer.folder}: {info['num_clips']:,} clips of {len(found.classes)} classes, {found.layout}, {found.form}")
    for proof in proofs:
        print(f"  {proof}")
        if proof.missing:
            print(f"    missing: {enumerate_missing(proof.missing)}")
    print(f"  left out: {why['listed']:,} on the list of missing skeletons, {why['bad']:,} bad (named in dataset.json)")
    if bad and not arguments.allow_bad:
        print("some files were bad (below); mend them, or accept this with --allow-bad", file=sys.stderr)
        return 1
    return 0


def _fingerprint(found: Found) -> str:
    """Of everything that decides what the result will be: names, sizes and times of the raw files, and the form."""
    form = (find_layout(found.layout).to_mapping(), found.num_persons, list(found.classes.items()), found.own)
    digest = hashlib.sha256(repr(form).encode())
    for item in found.items:
        digest.update(f"{item.name} {item.file} {item.stamp} {dict(item.facts)}\n".encode())
    return digest.hexdigest()


def _check_folders(raw: Path | None, out: Path) -> None:
    """Before anything is read: only an old dataset may be replaced, and raw files stay apart from prepared ones."""
    check_target(out)
    if raw is not None and out.resolve().is_relative_to(raw.resolve()):
        raise ValueError(f"--out {out} lies inside --raw {raw}; give a folder outside of it")


def _check_disk(out: Path, found: Found) -> None:
    joints = find_layout(found.layout).num_joints
    begun = out.with_name(f".{out.name}.part") / "frames.npy"
    have = begun.stat().st_size if begun.is_file() else 0
    need = max(0, len(found.items) * found.num_persons * joints * _BYTES_A_CLIP - have)
    home = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(home).free
    if free < need:
        raise OSError(
            f"{home} has {free / 1e9:.1f} GB free, {len(found.items):,} clips need about {need / 1e9:.1f} GB;"
            " make room or give another --out"
        )


def _report_bad(bad: Sequence[Mapping[str, str]]) -> None:
    for entry in bad[:_SHOWN]:
        print(f"bad: {entry['why']}", file=sys.stderr)
    if len(bad) > _SHOWN:
        print(f"and {len(bad) - _SHOWN:,} more bad files, named in dataset.json", file=sys.stderr)
