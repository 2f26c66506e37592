"""``skeleton-llm recognize``: raw files in, names out."""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm recognize",
        description="Name the action in raw files of any format that prepare reads; FILE#CLIP out of a file of many.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/demo/stage2/recognizer"),
        help="folder that stage 2 wrote (%(default)s)",
    )
    parser.add_argument("--llm", help="where the language model lies, if it has moved since")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--gif", type=Path, help="draw the moving skeleton with the answer (one FILE only)")
    return parser.parse_args(argv)


def recognize(argv: Sequence[str]) -> int:
    """Answer for each file; a bad file is one sentence on stderr and exit code 1, the others are still answered."""
    arguments = _arguments(argv)
    if arguments.gif is not None and len(arguments.files) > 1:
        print("--gif draws one clip; give one FILE", file=sys.stderr)
        return 2
    if arguments.gif is not None and arguments.gif.suffix != ".gif":
        print(f"--gif {arguments.gif}: expected a file name that ends in .gif", file=sys.stderr)
        return 2
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import reports optional kernels as failures
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # PEFT on transformers 5
    from skeleton_llm.plotting import save_gif
    from skeleton_llm.recognizer import Recognizer

    try:
        recognizer = Recognizer.from_pretrained(arguments.model, llm=arguments.llm)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = False
    for path in arguments.files:
        try:
            clip = recognizer.read(path)
            answer = recognizer.recognize(clip)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if arguments.json:
            print(json.dumps({"file": str(path), **asdict(answer)}))
        else:
            print(f"{path}: {answer.name}")
            for name, probability in answer.top:
                print(f"  {probability:6.1%}  {name}")
            print(f"  action sentence: {' '.join(map(str, answer.sentence))}")
            print(f"  in free words: {answer.said!r}")
        if arguments.gif is not None:
            try:
                save_gif(arguments.gif, clip.joints, clip.layout, answer.name)
            except OSError as error:
                print(f"error: --gif {arguments.gif}: {error.strerror or error}", file=sys.stderr)
                failed = True
    return int(failed)
