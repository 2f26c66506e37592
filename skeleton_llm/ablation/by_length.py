"""The answers of language models with each name's likelihood divided by its tokens, so that short names do not win."""

import json
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from skeleton_llm.ablation.findings import Answers, Finding, answering, config
from skeleton_llm.ablation.runs import Planned
from skeleton_llm.language import LanguageModel, Prompt, Wording
from skeleton_llm.metrics import read_scores


def by_length(found: Mapping[str, Finding]) -> dict[str, Finding]:
    """The cells that a language model answers for, where that model's words can still be had."""
    judged = {}
    for name, finding in found.items():
        answers = {seed: _answers(planned) for seed, planned in finding.planned.items()}
        whole = {seed: rounds for seed, rounds in answers.items() if rounds is not None}
        if len(whole) == len(finding.answers) and not finding.cell.ensemble:
            judged[name] = Finding(finding.cell, finding.planned, whole)
    return judged


def _answers(planned: Planned) -> list[Answers] | None:
    rounds = []
    for run, *_ in answering(planned):
        whole = config(run)
        given = whole["model"]["init_args"]
        if "llm" not in given or given.get("search"):  # which scores few names
            return None
        kept = read_scores(run.folder / "scores/test.safetensors")
        about = {"llm": given["llm"] or {}, "prompt": given.get("prompt") or {}, "names": kept.of["class_names"]}
        held_out = len(kept.labels.unique()) if whole["data"]["init_args"].get("unseen") else 0
        tokens = _tokens(json.dumps(about), held_out)
        if tokens is None:
            return None
        answers = (kept.scores.numpy() / tokens).argmax(1)
        rounds.append(Answers(kept.rows.numpy(), kept.labels.numpy(), answers))
    return rounds


@lru_cache(maxsize=8)
def _tokens(about: str, held_out: int) -> np.ndarray | None:
    """Of each name's answer, its end included, [C]; None where the language model is not here any more."""
    given = json.loads(about)
    llm = LanguageModel(**given["llm"])
    try:
        words = llm.tokenizer()
    except (OSError, ValueError):
        return None
    return Wording(words, json.loads(given["names"]), Prompt(**given["prompt"]).holding_out(held_out)).lengths
