"""``skeleton-llm tokenize``: a prepared dataset in, its action sentences out."""

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from skeleton_llm.skeletons import PreparedDataset
from skeleton_llm.skeletons.table import COLUMNS, UNKNOWN
from skeleton_llm.skeletons.writer import library_version

if TYPE_CHECKING:
    from skeleton_llm.networks import ActionTokenizer

_SAME = ("fingerprint", "preprocess", "content_hash")  # what decides every sentence


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm tokenize",
        description="Write the action sentence of every clip as JSON lines, and beside them a .json that says of what.",
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a prepared dataset")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER", help="folder that stage 1 wrote")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="sentences/DATA.jsonl beside the tokenizer")
    parser.add_argument("--batch-size", type=int, default=256, help="clips encoded at once (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="a GPU where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace sentences of another tokenizer or dataset")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {arguments.batch_size}")
    if arguments.out is not None and arguments.out.suffix != ".jsonl":
        parser.error(f"--out {arguments.out}: expected a file name that ends in .jsonl")
    return arguments


def tokenize(argv: Sequence[str]) -> int:
    """Write every sentence of one dataset, or keep those that are there already."""
    arguments = _arguments(argv)
    from skeleton_llm.networks import ActionTokenizer

    try:
        data = PreparedDataset.open(arguments.data)
        tokenizer = ActionTokenizer.from_pretrained(arguments.tokenizer)
        if data.info["layout"] != tokenizer.layout:
            raise ValueError(
                f"{data.folder}: has the layout {data.info['layout']}, the tokenizer {arguments.tokenizer} reads"
                f" {tokenizer.layout}; use a tokenizer trained on such skeletons"
            )
        folder, name = arguments.tokenizer.resolve().parent / "sentences", arguments.data.resolve().name
        out = arguments.out or folder / f"{name}.jsonl"
        identity = identify(tokenizer, data)
        if _is_there(out, identity, overwrite=arguments.overwrite):
            print(f"{out}: the sentences of this tokenizer and dataset are there already; kept")
            return 0
        tokenizer.to(_device(arguments.device))
        begin = time.perf_counter()
        tokens = write(out, identity, data, sentences(tokenizer, data, arguments.batch_size))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - begin
    print(f"{out}: {len(data):,} clips, {tokens:,} tokens, {seconds:.1f} s, {len(data) / seconds:,.0f} clips a second")
    return 0


def _device(name: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return "cuda" if there and name == "auto" else name.replace("auto", "cpu")


def identify(tokenizer: "ActionTokenizer", data: PreparedDataset) -> dict[str, Any]:
    """Whose sentences they are and of what; the same weights on clips cut otherwise write others."""
    return {
        "fingerprint": tokenizer.fingerprint(),
        "preprocess": asdict(tokenizer.preprocess),
        "num_codes": tokenizer.num_codes,
        "dataset": data.info["name"],
        "content_hash": data.info["content_hash"],
        "num_clips": len(data),
        "class_names": data.info["class_names"],
        "library_version": library_version(),
    }


def _is_there(out: Path, identity: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether ``out`` is whole and says the same; the identity is written last, so it stands for the whole.

    Raises:
        ValueError: something else is there, or something that cannot be replaced.
    """
    old = _read_identity(out.with_suffix(".json"))
    if not out.exists():
        return False
    if not out.is_file():
        raise ValueError(f"{out} is a folder; expected a new file for the sentences")
    if old and all(old[key] == identity[key] for key in _SAME):
        return True
    if not overwrite:
        raise ValueError(f"{out} holds other sentences than this tokenizer's of this dataset; replace with --overwrite")
    return False


def _read_identity(path: Path) -> dict[str, Any]:
    """What ``path`` says, nothing where it is absent; a file of another kind is never replaced.

    Raises:
        ValueError: it is something else, such as a prepared dataset's own ``clips.json``.
    """
    if not path.exists():
        return {}
    try:
        old: Any = json.loads(path.read_text())
        if isinstance(old, dict) and set(_SAME) <= old.keys():
            return old
    except (OSError, ValueError):
        pass
    raise ValueError(f"{path} is not about sentences and would be lost; give another --out")


def sentences(tokenizer: "ActionTokenizer", data: PreparedDataset, batch_size: int) -> Iterator[list[list[int]]]:
    """Each clip's sentences in the dataset's order, one, or one for each person (empty where absent).

    A thread reads one batch while another is encoded.
    """
    from skeleton_llm.skeletons.batches import read_batch

    def read(first: int) -> Any:
        rows = range(first, min(first + batch_size, len(data)))
        return read_batch(data, rows, tokenizer.preprocess, tokenizer.num_persons)

    starts = iter(range(0, len(data), batch_size))
    with ThreadPoolExecutor(1) as thread:
        ahead = deque(thread.submit(read, first) for first in islice(starts, 1))
        while ahead:
            joints, persons, lengths = ahead.popleft().result()
            ahead.extend(thread.submit(read, first) for first in islice(starts, 1))
            lengths = None if lengths is None else lengths.to(tokenizer.device)
            tokens, mask = tokenizer.sentences(joints.to(tokenizer.device), persons.to(tokenizer.device), lengths)
            people = tokenizer.num_persons if tokenizer.vqvae.apart else 1
            tokens, mask = tokens.unflatten(1, (people, -1)), mask.unflatten(1, (people, -1))
            for clip, counts in zip(tokens.tolist(), mask.tolist(), strict=True):
                yield [[t for t, there in zip(*one, strict=True) if there] for one in zip(clip, counts, strict=True)]


def write(out: Path, identity: dict[str, Any], data: PreparedDataset, found: Iterator[list[list[int]]]) -> int:
    """Write the lines and the identity, both whole or not at all; returns the number of tokens."""
    out.parent.mkdir(parents=True, exist_ok=True)
    about = out.with_suffix(".json")
    lines, facts = (path.with_name(f".{path.name}.{os.getpid()}.part") for path in (out, about))
    total, shown = 0, tqdm(found, total=len(data), unit="clip", desc="tokenizing", file=sys.stderr, disable=None)
    try:
        with lines.open("w") as file:
            for row, persons in zip(_facts(data), shown, strict=True):
                line = {**row, "tokens": [token for tokens in persons for token in tokens]}
                if len(persons) > 1:
                    line["tokens_per_person"] = [len(tokens) for tokens in persons]
                file.write(json.dumps(line) + "\n")
                total += len(line["tokens"])
        facts.write_text(json.dumps({**identity, "num_tokens": total}, indent=1))
        about.unlink(missing_ok=True)  # an old identity must never stand beside new sentences
        lines.replace(out)
        facts.replace(about)
    finally:
        lines.unlink(missing_ok=True)
        facts.unlink(missing_ok=True)
    return total


def _facts(data: PreparedDataset) -> Iterator[dict[str, Any]]:
    """What each line says besides its tokens.

    Every line has the same columns, null where a clip's is unknown: readers of JSON lines take them from the first.
    """
    names: list[str] = data.info["class_names"]
    known = [name for name in COLUMNS[3:] if name in data.table and (data.table[name] != UNKNOWN).any()]
    columns = [data.table[name].tolist() for name in known]
    for source, label, *numbers in zip(data.sources, data.table["label"].tolist(), *columns, strict=True):
        row = {"clip": source, "label": label, "action": None if label == UNKNOWN else names[label]}
        yield row | {name: None if n == UNKNOWN else n for name, n in zip(known, numbers, strict=True)}
