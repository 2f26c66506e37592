"""A recogniser's learned parts on disk, and how they come back onto their language model or become one with it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skeleton_llm.language.inputs import Inputs, add_action_words
from skeleton_llm.language.llm_recognizer import LLMRecognizer
from skeleton_llm.language.loading import LanguageModel, Quantization
from skeleton_llm.language.prompts import Prompt
from skeleton_llm.language.tuning import Tuning
from skeleton_llm.language.wording import Wording

_KEYS = ("llm_origin", "llm_words", "llm_weights", "merged", "class_names", "first_action", "num_actions", "word_norm",
         "temperature")  # fmt: skip


def save_network(
    network: LLMRecognizer, folder: Path | str, llm: LanguageModel, tuning: Tuning, prompt: Prompt
) -> None:
    """Write what was learned and what it was learned on: a PEFT adapter or all weights, the map, ``llm.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found, origin = _pinned(llm)
    config = {
        "llm": asdict(found),
        "llm_origin": origin,
        "llm_words": llm.fingerprint(),
        "llm_weights": llm.weights_fingerprint(),
        "merged": False,
        "tuning": asdict(tuning),
        "prompt": asdict(prompt),
        "class_names": network.class_names,
        "inputs": asdict(network.inputs),
        "first_action": network.actions.start,
        "num_actions": len(network.actions),
        "word_norm": network.word_norm.item(),  # of the words before full tuning moved them
        "temperature": network.temperature.item(),
    }
    (folder / "llm.json").write_text(json.dumps(config, indent=1))
    tuned: Any = network.llm
    if tuning.adapts:
        adapter = tuned.peft_config["default"]
        adapter.base_model_name_or_path, adapter.revision = found.name, found.revision
        if isinstance(adapter.target_modules, set):  # whose order is another one in each process
            adapter.target_modules = sorted(adapter.target_modules)
        # of new words the adapter holds the rows themselves
        tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's blank form; the folder has a card
    elif tuning.mode == "full":
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tuned.named_parameters()}
        save_file(weights, folder / "llm.safetensors")
    if network.input_map is not None:
        save_file(network.input_map.state_dict(), folder / "input_map.safetensors")


def _pinned(llm: LanguageModel) -> tuple[LanguageModel, str]:
    """The same model for who looks from elsewhere, and its origin: a folder by its whole path, a hub id by a commit."""
    if llm.name == "built-in":
        return llm, "built-in"
    folder = Path(llm.name).expanduser()
    if folder.is_dir():
        return replace(llm, name=str(folder.resolve())), "folder"
    return replace(llm, revision=llm.path(words_only=True).name), "hub"  # the cache names its folders by commit


def read_config(folder: Path | str) -> dict[str, Any]:
    """What ``llm.json`` says.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    file = Path(folder) / "llm.json"
    if not file.is_file():
        inside = file.parent / "recognizer"
        mend = f"name {inside}" if (inside / "llm.json").is_file() else 'run "make stage2"'
        raise FileNotFoundError(f"{file} is missing: expected the recogniser that stage 2 exports; {mend}")
    with _whole(folder):
        config: Any = json.loads(file.read_text())
        for key, kind in (("llm", LanguageModel), ("tuning", Tuning), ("inputs", Inputs), ("prompt", Prompt)):
            kind(**config[key])
        if lacking := [key for key in _KEYS if key not in config]:
            raise KeyError(lacking[0])
        return config


@contextmanager
def _whole(folder: Path | str) -> Iterator[None]:
    """Whatever a damaged file leads to, as one sentence."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: a damaged recogniser ({error}); export it again from stage 2") from error


def _base(folder: Path | str, config: dict[str, Any], name: str | None) -> LanguageModel:
    """The language model that the folder needs, proved to be the right one; a merged folder brings its own.

    Raises:
        FileNotFoundError: it is not where the folder says.
        ValueError: it is another one, or is named where none is needed.
    """
    spec = LanguageModel(**config["llm"])
    if config["merged"]:
        if name is not None:
            raise ValueError(f"{folder}: a merged recogniser brings its language model; leave --llm {name} away")
        dtype = "float32" if config["tuning"]["mode"] == "full" else spec.dtype
        return replace(spec, name=str(Path(folder) / "llm"), revision=None, dtype=dtype, untrained=False)
    if name is not None:
        spec = replace(spec, name=name, revision=None)
    elif config["llm_origin"] == "folder" and not Path(spec.name).is_dir():
        raise FileNotFoundError(
            f"{folder}: its language model was the folder {spec.name}, which is not here; say where it is with --llm"
        )
    if (spec.fingerprint(), spec.weights_fingerprint()) != (config["llm_words"], config["llm_weights"]):
        raise ValueError(
            f"{folder}: was tuned on another language model than {spec.name}; name the right one with --llm"
        )
    return spec


def load_network(
    folder: Path | str, llm: str | None = None, *, class_names: Sequence[str] | None = None, sentence: int = 0
) -> LLMRecognizer:
    """Read a folder that ``save_network`` or ``merge_network`` wrote.

    Args:
        folder: it.
        llm: where its language model lies now, if elsewhere.
        class_names: answer with these, whether it was tuned on them or not; None for its own.
        sentence: tokens of the longest action sentence that it shall read.

    Raises:
        FileNotFoundError: a file or the language model is missing.
        ValueError: the language model is not the one that was tuned, cannot spell or tell apart the names or has no
            room for the prompt (all told before it is loaded), or the folder is damaged.
    """
    config = read_config(folder)
    quantization = "none" if config["merged"] else Tuning(**config["tuning"]).quantization
    if class_names is not None:
        config = {**config, "class_names": class_names}
    return _load(Path(folder), config, llm, quantization, sentence)


def _load(
    folder: Path, config: dict[str, Any], llm: str | None, quantization: Quantization, sentence: int = 0
) -> LLMRecognizer:
    spec = _base(folder, config, llm)
    with _whole(folder):
        text, prompt = spec.tokenizer(), Prompt(**config["prompt"])
    wording = Wording(text, config["class_names"], prompt)
    with _whole(folder):
        tuning, inputs = Tuning(**config["tuning"]), Inputs(**config["inputs"])
    wording.check_room(inputs.repeat * sentence, spec.context)
    with _whole(folder):
        base = spec.load(quantization)
        if config["merged"]:
            first = config["first_action"]
            actions = range(first, first + config["num_actions"])
        else:
            new = config["num_actions"]
            actions = add_action_words(base, wording.text, new) if new else range(0)
            base = _with_learned(base, folder, tuning)
        network = LLMRecognizer(base, wording, inputs, actions=actions)
        network.word_norm.fill_(config["word_norm"])
        network.temperature.fill_(config["temperature"])
        if network.input_map is not None:
            network.input_map.load_state_dict(load_file(folder / "input_map.safetensors"))
    return network.eval()


def _with_learned(base: Any, folder: Path, tuning: Tuning) -> Any:
    """The language model with what was learned on it: adapters beside its weights, or other weights."""
    if tuning.adapts:
        weights = folder / "adapter" / "adapter_model.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is missing; export the recogniser again from stage 2")
        return PeftModel.from_pretrained(base, str(folder / "adapter"))
    if tuning.mode == "full":
        learned, wanted = load_file(folder / "llm.safetensors"), {name for name, _ in base.named_parameters()}
        if lacking := sorted(wanted - learned.keys()):  # weights that are tied are there once, and wanted once
            raise ValueError(f"llm.safetensors lacks {lacking[0]} and {len(lacking) - 1} more")
        base.float().load_state_dict(learned, strict=False)
    return base


def merge_network(folder: Path | str, llm: str | None = None) -> None:
    """Put what was learned into the language model's own weights: ``llm/``, in Hugging Face form, for the adapter.

    The base is loaded anew in its ``dtype``, never quantised: weights in 4 or 8 bits cannot hold the sum.

    Args:
        folder: what ``save_network`` wrote.
        llm: where its language model lies now, if elsewhere.

    Raises:
        FileNotFoundError: a file or the language model is missing.
        ValueError: merged already, another language model, or a damaged folder.
    """
    folder, config = Path(folder), read_config(folder)
    if config["merged"]:
        raise ValueError(f"{folder}: is merged already; export it without --merge")
    network = _load(folder, config, llm, "none")
    whole: Any = network.llm
    if isinstance(whole, PeftModel):
        whole = whole.merge_and_unload()
    whole.save_pretrained(folder / "llm")
    network.wording.text.save_pretrained(folder / "llm")
    (folder / "llm.json").write_text(json.dumps({**config, "merged": True}, indent=1))
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    (folder / "llm.safetensors").unlink(missing_ok=True)


def move_base(folder: Path | str, llm: str) -> None:
    """Write into the folder where its language model lies now.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: another language model is, or the folder brings its own.
    """
    config = read_config(folder)
    spec, origin = _pinned(_base(folder, config, llm))
    config |= {"llm": asdict(spec), "llm_origin": origin}
    (Path(folder) / "llm.json").write_text(json.dumps(config, indent=1))
