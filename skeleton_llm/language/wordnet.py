"""WordNet's data files (wndb(5WN)) as plain English documents for the built-in language model."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_KINDS = {"verb": "v", "noun": "n", "adj": "a", "adv": "r"}
_HYPERNYM = "@"
_VERB_TEMPLATES = (
    "to {word} is to {gloss} .",
    "what does it mean to {word} ? it means to {gloss} .",
    "{gloss} . please predict the corresponding action . {word}",
    "given the description {gloss} , please predict the corresponding action . {word}",
    "a person is seen to {gloss} . what is the action ? {word}",
    "{word} : {gloss}",
)
_WORD_TEMPLATES = {
    "noun": ("{word} : {gloss}", "{article} {word} is {gloss} .", "what is {article} {word} ? {gloss} ."),
    "adj": ("{word} : {gloss}", "something {word} is {gloss} ."),
    "adv": ("{word} : {gloss}",),
}


class Synset(NamedTuple):
    """One meaning: the words that share it, its definition, its example sentences, its wider meaning's offset."""

    kind: str
    offset: str
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    hypernym: str | None


def read_synsets(folder: Path) -> list[Synset]:
    """All synsets but proper names of ``data.verb``, ``data.noun``, ``data.adj`` and ``data.adv`` in ``folder``.

    Raises:
        FileNotFoundError: a data file is missing; on Debian the package wordnet-base carries them.
    """
    synsets = []
    for kind in _KINDS:
        path = folder / f"data.{kind}"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: expected WordNet's data files; install Debian's wordnet-base or name its folder"
            )
        with path.open(encoding="latin-1") as lines:
            synsets += [_parse(line, kind) for line in lines if not line.startswith("  ") and not _is_name(line)]
    return synsets


def _is_name(line: str) -> bool:
    """Whether the synset is a proper name (a person, a place, a species), which a small model need not know."""
    return line.split(maxsplit=5)[4][0].isupper()


def _parse(line: str, kind: str) -> Synset:
    facts, _, text = line.partition(" | ")
    fields = facts.split()
    count = int(fields[3], 16)
    words = tuple(fields[4 + 2 * i].split("(")[0].replace("_", " ").lower() for i in range(count))
    pointers = fields[5 + 2 * count :]
    hypernym = next(
        (target for mark, target in itertools.pairwise(pointers) if mark == _HYPERNYM and len(target) == 8),
        None,
    )
    gloss, *quoted = text.strip().split('"')
    examples = tuple(part.strip().lower() for part in quoted[::2] if len(part.split()) > 2)
    return Synset(kind, fields[0], words, gloss.strip(" ;:,\n").lower(), examples, hypernym)


def documents(synsets: list[Synset], seed: int) -> Iterator[str]:
    """Lower-case English sentences made from the synsets: definitions, reverse definitions, examples, kinds.

    Verbs are told in every phrasing, other words in one; the choice is drawn from ``seed``.
    """
    draw = random.Random(seed)  # noqa: S311
    by_offset = {(s.kind, s.offset): s for s in synsets}
    for synset in synsets:
        if not synset.gloss:
            continue
        yield from synset.examples
        if synset.kind == "verb":
            for template in draw.sample(_VERB_TEMPLATES, 4):
                yield template.format(word=draw.choice(synset.words), gloss=synset.gloss)
        else:
            word = draw.choice(synset.words)
            article = "an" if word[0] in "aeiou" else "a"
            template = draw.choice(_WORD_TEMPLATES[synset.kind])
            yield template.format(word=word, gloss=synset.gloss, article=article)
        if len(synset.words) > 1 and draw.random() < 0.5:
            yield " , ".join(synset.words) + f" : {synset.gloss}"
        wider = by_offset.get((synset.kind, synset.hypernym or ""))
        if wider is not None and synset.kind == "verb":
            yield f"to {synset.words[0]} is a way to {wider.words[0]} ."
