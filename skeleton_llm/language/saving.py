"""A recogniser's learned parts on disk, and how they come back onto their language model."""

import json
from dataclasses import asdict
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from skeleton_llm.language.llm_recognizer import LLMRecognizer
from skeleton_llm.language.loading import LanguageModel
from skeleton_llm.language.tuning import Tuning
from skeleton_llm.language.prompts import Prompt


def save_network(
    network: LLMRecognizer, folder: Path | str, llm: LanguageModel, tuning: Tuning, prompt: Prompt
) -> None:
    """Write what was learned and what it was learned on: a PEFT adapter or all weights, the map, ``llm.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "llm": asdict(llm),
        "llm_fingerprint": llm.fingerprint(),
        "tuning": asdict(tuning),
        "prompt": asdict(prompt),
        "class_names": network.class_names,
        "input_map": network.input_map is not None,
        "word_norm": network.word_norm.item(),  # of the words before full tuning moved them
        "temperature": network.temperature.item(),
    }
    (folder / "llm.json").write_text(json.dumps(config, indent=1))
    if tuning.adapts:
        network.llm.save_pretrained(folder / "adapter")  # type: ignore[operator]
    elif tuning.mode == "full":
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.llm.named_parameters()}
        save_file(weights, folder / "llm.safetensors")
    if network.input_map is not None:
        save_file(network.input_map.state_dict(), folder / "input_map.safetensors")


def load_network(folder: Path | str, llm: str | None = None) -> LLMRecognizer:
    """Read a folder that ``save_network`` wrote; ``llm`` says where its language model lies now, if elsewhere.

    Raises:
        FileNotFoundError: a file or the language model is missing.
        ValueError: the language model is not the one that was tuned, or the folder is damaged.
    """
    folder = Path(folder)
    if not (folder / "llm.json").is_file():
        raise FileNotFoundError(
            f'{folder / "llm.json"} is missing: expected the recogniser that stage 2 exports; run "make stage2"'
        )
    try:
        config = json.loads((folder / "llm.json").read_text())
        spec, tuning = LanguageModel(**config["llm"]), Tuning(**config["tuning"])
        spec.name = llm or spec.name
        if spec.fingerprint() != config["llm_fingerprint"]:
            raise ValueError(f"was tuned on another language model than {spec.name}; name the right one with --llm")
        base = spec.load(tuning.quantization)
        if tuning.adapts:
            base = PeftModel.from_pretrained(base, str(folder / "adapter"))  # type: ignore[assignment]
        elif tuning.mode == "full":
            base.float().load_state_dict(load_file(folder / "llm.safetensors"), strict=False)
        prompt, names = Prompt(**config["prompt"]), config["class_names"]
        network = LLMRecognizer(base, spec.tokenizer(), names, prompt, input_map=config["input_map"])
        network.word_norm.fill_(config["word_norm"])
        network.temperature.fill_(config.get("temperature", 1.0))  # folders made before calibration have none
        if network.input_map is not None:
            network.input_map.load_state_dict(load_file(folder / "input_map.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if str(error).startswith("was tuned"):
            raise ValueError(f"{folder}: {error}") from error
        raise ValueError(f"{folder}: a damaged recogniser ({error}); export it again from stage 2") from error
    return network.eval()
