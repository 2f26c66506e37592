"""``skeleton-llm recognize``: skeletons in, names out."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from skeleton_llm.cli.places import Place, find_places
from skeleton_llm.skeletons import Clip

if TYPE_CHECKING:
    from skeleton_llm.recognizer import Answer, Recognizer


def _names(given: str) -> list[str]:
    if "," not in given and not Path(given).is_file():
        raise argparse.ArgumentTypeError(f"{given}: expected names parted by commas, or a text file with one a line")
    names = given.split(",") if "," in given else Path(given).read_text(encoding="utf-8").splitlines()
    return [name.strip() for name in names if name.strip()]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm recognize",
        description="Name the action in raw files of any format that prepare reads (FILE#CLIP out of a file of many),"
        " in every such file of a folder or of a pattern in quotes, or in the clips of a prepared dataset.",
        allow_abbrev=False,
    )
    parser.add_argument("places", nargs="+", metavar="FILE|FOLDER|PATTERN|DATASET")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/demo/stage2/recognizer"),
        help="folder that stage 2 or export wrote (%(default)s)",
    )
    parser.add_argument("--llm", help="where the language model lies, if it has moved since")
    parser.add_argument(
        "--classes",
        type=_names,
        metavar="A,B,...|FILE",
        help="answer with these names, known or not, instead of the trained ones; in a text file one a line",
    )
    parser.add_argument("--split", choices=("train", "test"), help="of a prepared dataset these clips, by --protocol")
    parser.add_argument("--protocol", help="who trains and who tests, such as ntu60_xsub")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="clips answered at once (%(default)s)")
    parser.add_argument("--free", action="store_true", help="also what the model answers when it may say anything")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write JSON lines there instead of printing")
    parser.add_argument("--progress", action="store_true", help="a progress bar also where stderr is no terminal")
    parser.add_argument("--gif", type=Path, help="draw the moving skeleton with the answer (one clip only)")
    arguments = parser.parse_args(argv)
    if (arguments.split is None) != (arguments.protocol is None):
        parser.error("--split and --protocol belong together; give both or neither")
    if arguments.batch < 1:
        parser.error(f"--batch must be at least 1, got {arguments.batch}")
    return arguments


def recognize(argv: Sequence[str]) -> int:
    """Answer for each clip; a bad one is one sentence on stderr and exit code 1, the others are still answered."""
    arguments = _arguments(argv)
    places, failed = _find(arguments)
    if arguments.gif is not None and len(places) > 1:
        print(f"--gif draws one clip, got {len(places)}; give one FILE", file=sys.stderr)
        return 2
    if arguments.gif is not None and arguments.gif.suffix != ".gif":
        print(f"--gif {arguments.gif}: expected a file name that ends in .gif", file=sys.stderr)
        return 2
    if not places:
        return 1
    try:
        with _lines(arguments.out) as lines:
            recognizer = _load(arguments, places)
            with _bar(len(places), shown=arguments.progress) as bar:
                for place, clip, answer in _answers(recognizer, places, arguments):
                    bar.update()
                    try:
                        _write(place, clip, answer, arguments, lines)
                    except ValueError as error:
                        tqdm.write(f"error: {error}", file=sys.stderr)
                        failed = True
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return int(failed)


def _find(arguments: argparse.Namespace) -> tuple[list[Place], bool]:
    """Every clip that was asked for, and whether something was not there; before anything heavy is loaded."""
    places, failed = [], False
    for given in arguments.places:
        try:
            places += find_places(given, arguments.split, arguments.protocol)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
    return places, failed


@contextmanager
def _lines(out: Path | None) -> Iterator[IO[str] | None]:
    """A file that becomes ``out`` when every line is in it; None for None.

    Raises:
        ValueError: no file can be there.
    """
    if out is None:
        yield None
        return
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        file = part.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written ({error.strerror}); name another file") from error
    try:
        with file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _load(arguments: argparse.Namespace, places: Sequence[Place]) -> "Recognizer":
    """The recogniser, after the prepared datasets were held against its tokenizer."""
    from skeleton_llm.language.saving import read_config
    from skeleton_llm.networks import ActionTokenizer
    from skeleton_llm.recognizer import Recognizer

    read_config(arguments.model)
    layout = ActionTokenizer.from_pretrained(arguments.model / "tokenizer").layout
    for data in {place.data.folder: place.data for place in places if place.data is not None}.values():
        if data.info["layout"] != layout:
            raise ValueError(
                f"{data.folder}: has the layout {data.info['layout']}, {arguments.model} reads {layout};"
                " use a recogniser trained on such skeletons"
            )
    return Recognizer.from_pretrained(arguments.model, llm=arguments.llm, class_names=arguments.classes)


def _bar(total: int, *, shown: bool) -> "tqdm[Any]":
    """On stderr; None there means only on a terminal."""
    hidden = False if shown else True if total == 1 else None
    return tqdm(total=total, unit="clip", desc="recognizing", file=sys.stderr, disable=hidden)


def _answers(
    recognizer: "Recognizer", places: Sequence[Place], arguments: argparse.Namespace
) -> Iterator[tuple[Place, Clip | None, "Answer | Exception"]]:
    """Each clip with its answer, or with what is wrong with it, a batch at a time."""
    for first in range(0, len(places), arguments.batch):
        read: list[tuple[Place, Clip]] = []
        for place in places[first : first + arguments.batch]:
            try:
                read.append((place, place.read(recognizer)))
            except (OSError, ValueError) as error:
                yield place, None, error
        answers = recognizer.recognize([clip for _, clip in read], batch_size=arguments.batch, free=arguments.free)
        for (place, clip), answer in zip(read, answers, strict=True):
            yield place, clip, answer


def _write(
    place: Place, clip: Clip | None, answer: "Answer | Exception", arguments: argparse.Namespace, lines: IO[str] | None
) -> None:
    """One answer as text or JSON, and its GIF.

    Raises:
        ValueError: the clip has no answer, or the GIF cannot be written.
    """
    if clip is None or isinstance(answer, Exception):
        raise ValueError(answer)
    truth = {} if place.data is None else {"truth": place.truth}
    line = json.dumps({"file": place.name, **truth, **asdict(answer)})
    if lines is not None:
        lines.write(line + "\n")
    else:
        tqdm.write(line if arguments.json else _text(place, answer), file=sys.stdout)
    if arguments.gif is not None:
        from skeleton_llm.plotting import save_gif

        try:
            save_gif(arguments.gif, clip.joints, clip.layout, answer.name)
        except OSError as error:
            raise ValueError(f"--gif {arguments.gif}: {error.strerror or error}") from error


def _text(place: Place, answer: "Answer") -> str:
    truth = f" (truth: {place.truth})" if place.truth is not None else ""
    lines = [f"{place.name}: {answer.name}{truth}"]
    lines += [f"  {probability:6.1%}  {name}" for name, probability in answer.top]
    lines.append(f"  action sentence: {' '.join(map(str, answer.sentence))}")
    if answer.said is not None:
        lines.append(f"  in free words: {answer.said!r}")
    return "\n".join(lines)
