"""The model card of a recogniser, in Hugging Face's form, written from what its folder holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from skeleton_llm.language.saving import read_config
from skeleton_llm.run_folder import run_facts

_READ_ONCE = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean per-class accuracy",
    "top1_length_normalised": "top-1, likelihoods by length of name",
    "greedy_exact_match": "free greedy answers, exact match",
    "greedy_invalid": "free greedy answers that are no class name",
    "ece_before": "expected calibration error at T = 1",
    "ece_after": "expected calibration error at the fitted T",
}


def record_run(folder: Path, run: Path, results: Mapping[str, float]) -> None:
    """Keep what the run folder knows in ``run.json`` and write the card anew.

    Args:
        folder: the recogniser.
        run: the folder of the run that made it.
        results: what was measured of these weights.
    """
    facts = {"facts": run_facts(run), "results": dict(results)}
    (folder / "run.json").write_text(json.dumps(facts, indent=1))
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write ``README.md`` of a recogniser's folder."""
    config = read_config(folder)
    shape, about = (json.loads((folder / "tokenizer" / name).read_text()) for name in ("config.json", "dataset.json"))
    run_file = folder / "run.json"
    run = json.loads(run_file.read_text()) if run_file.is_file() else {"facts": {}, "results": {}}
    facts, results = run["facts"], run["results"]
    data = about.get("dataset", {})
    name, protocol = facts.get("dataset", data.get("name", "unknown")), facts.get("protocol", about.get("protocol"))
    base = Path(config["llm"]["name"]).name if config["llm_origin"] == "folder" else config["llm"]["name"]
    of_test = {key.removeprefix("test/"): value for key, value in results.items() if key.startswith("test/")}
    lines = [
        f"# Names {len(config['class_names'])} human actions from skeletons",
        "",
        f"A language model ({base}) that reads action sentences, which a tokenizer with a codebook of"
        f" {shape['network']['num_codes']} tokens writes of skeleton clips, and answers with the name of the action.",
        "",
        *_table(_made_of(config, base, shape) | _made_on(name, protocol, data, facts, shape)),
        *_results(of_test, config["temperature"]),
        *_made_by(facts),
        *_use(config),
        "## Actions",
        "",
        *(f"- {action}" for action in config["class_names"]),
    ]
    (folder / "README.md").write_text(
        f"---\n{_head(base, name, protocol, config, of_test)}---\n" + "\n".join(lines) + "\n"
    )


def _head(base: str, name: str, protocol: str | None, config: dict[str, Any], results: dict[str, float]) -> str:
    found = [
        EvalResult(
            task_type="skeleton-action-recognition",
            dataset_type=name,
            dataset_name=protocol or name,
            dataset_split="test",
            metric_type=key,
            metric_name=_READ_ONCE[key],
            metric_value=round(value, 6),
        )
        for key, value in results.items()
        if key in _READ_ONCE
    ]
    adapts = config["tuning"]["mode"] in ("lora", "qlora", "int8")
    card = ModelCardData(
        library_name="skeleton-llm",
        base_model=base,
        tags=["skeleton-based-action-recognition", "llm-ar", *(["lora"] if adapts else [])],
        metrics=["accuracy"],
        model_name=f"skeleton-llm-{name}",
        eval_results=found or None,
    )
    return card.to_yaml() + "\n"


def _made_of(config: dict[str, Any], base: str, shape: dict[str, Any]) -> dict[str, str]:
    llm, tuning = config["llm"], config["tuning"]
    origins = {"built-in": "comes with skeleton-llm", "folder": "a local folder", "hub": "from the Hugging Face hub"}
    facts = [
        base,
        origins[config["llm_origin"]],
        f"revision {llm['revision']}" if llm["revision"] else "",
        llm["dtype"],
    ]
    facts += ["its weights drawn anew"] if llm["untrained"] else []
    how = tuning["mode"]
    if how in ("lora", "qlora", "int8"):
        how += f", r {tuning['r']}, alpha {tuning['alpha']}, on {' '.join(tuning['targets'])}"
    if config["merged"]:
        how += f"; merged into the language model, which `llm/` holds in {_dtype_of_merged(config)}"
    if config["merged"] and tuning["mode"] in ("qlora", "int8"):
        how += f" (tuned on the base in {'4' if tuning['mode'] == 'qlora' else '8'} bits, merged into the whole one)"
    return {
        "language model": ", ".join(fact for fact in facts if fact),
        "its words' fingerprint": f"`{config['llm_words']}`",
        "its weights' fingerprint": f"`{config['llm_weights']}`",
        "tuning": how,
        "prompt": config["prompt"]["text"],
        "input": _input(config["inputs"]),
        "tokenizer's fingerprint": f"`{shape['fingerprint']}`",
    }


def _input(inputs: dict[str, Any]) -> str:
    times = inputs.get("repeat", 1)
    return inputs["form"] + (", with a map" if inputs["map"] else "") + (f", {times} times" if times > 1 else "")


def _dtype_of_merged(config: dict[str, Any]) -> str:
    return "float32" if config["tuning"]["mode"] == "full" else str(config["llm"]["dtype"])


def _made_on(
    name: str, protocol: str | None, data: dict[str, Any], facts: dict[str, str], shape: dict[str, Any]
) -> dict[str, str]:
    table = {
        "data": name,
        "content hash": f"`{facts.get('data', data.get('content_hash', 'unknown'))}`",
        "protocol": protocol or "unknown",
        "skeletons": f"layout {shape['layout']}, up to {shape['num_persons']} persons, metres",
    }
    return table | {key: facts[key] for key in ("seed", "started", "revision", "versions", "machine") if key in facts}


def _table(rows: dict[str, str]) -> list[str]:
    escaped = ((key, value.replace("|", "\\|").replace("\n", " ")) for key, value in rows.items())
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in escaped), ""]


def _results(results: dict[str, float], temperature: float) -> list[str]:
    if not results:
        return ["## Results", "", "Not tested: these weights have seen no test split.", ""]
    rows = {name: f"{results[key]:.4f}" for key, name in _READ_ONCE.items() if key in results}
    rows["temperature T of the probabilities"] = f"{temperature:.4g}, fitted on validation clips"
    return ["## Results", "", "Of the test split, read once, when training had ended.", "", *_table(rows)]


def _made_by(facts: dict[str, str]) -> list[str]:
    return ["## Made by", "", f"    {facts['command']}", ""] if "command" in facts else []


def _use(config: dict[str, Any]) -> list[str]:
    lacks = [] if config["merged"] or config["llm_origin"] == "built-in" else ["", _NEEDS_BASE]
    return ["## Use", "", *_EXAMPLE, *lacks, ""]


_EXAMPLE = [
    "```python",
    "from skeleton_llm import Recognizer",
    'recognizer = Recognizer.from_pretrained("THIS_FOLDER")',
    'print(recognizer.recognize("clip.skeleton").name)',
    "```",
    "",
    "or `skeleton-llm recognize FILE --model THIS_FOLDER`.",
]
_NEEDS_BASE = "The language model is not in this folder; `llm=` or `--llm` says where it is, if not where it was."
