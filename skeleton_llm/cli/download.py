"""``skeleton-llm download``: a language model into the Hugging Face cache, on a machine with network."""

import argparse
import sys
from collections.abc import Sequence

from huggingface_hub.utils.tqdm import enable_progress_bars

from skeleton_llm.language.loading import LanguageModel


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="skeleton-llm download",
        description="Fetch a language model into the Hugging Face cache (HF_HOME says where), for compute nodes without"
        " network that share it.",
        allow_abbrev=False,
    )
    parser.add_argument("name", help="hub id, such as huggyllama/llama-13b")
    parser.add_argument("--revision", help="commit, branch or tag; the newest by default")
    parser.add_argument("--words", action="store_true", help="of the weights only the word embeddings: for stage 1")
    return parser.parse_args(argv)


def download(argv: Sequence[str]) -> int:
    """Fetch one model; prints its folder, then what to set where it is used."""
    arguments = _arguments(argv)
    enable_progress_bars()
    try:
        folder = LanguageModel(arguments.name, arguments.revision).path(words_only=arguments.words)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    revision = f' ARGS="--model.init_args.llm.revision {arguments.revision}"' if arguments.revision else ""
    stage = "make stage1" if arguments.words else "make stage1 or make stage2"
    print(folder)
    print(f"on the compute node: export HF_HUB_OFFLINE=1; {stage} with LLM={arguments.name}{revision}", file=sys.stderr)
    return 0
