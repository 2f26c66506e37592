"""What no run can do on this machine, said before anything is loaded."""

from typing import Any

import torch


def slow_bfloat16(accelerator: Any) -> bool:
    """Whether the run is on a CPU whose convolutions fall back to a plain loop in bfloat16."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def refuse_impossible(model: Any, trainer: Any) -> None:
    """Raise for a tuning, strategy, optimiser or precision that cannot work, before anything is loaded.

    Args:
        model: the parsed arguments of the module.
        trainer: those of the trainer.
    """
    from skeleton_llm.language.tuning import refuse, refuse_bfloat16, refuse_flat
    from skeleton_llm.networks.quantizer import refuse_unplaced

    refuse_unplaced(model.get("quantize_after"), trainer["max_steps"])
    accelerator = _accelerator(trainer["accelerator"])
    strategy = _strategy(trainer, accelerator)
    optimization, llm = model.get("optimization") or {}, model.get("llm") or {}
    tuning, inputs = model.get("tuning") or {}, model.get("inputs") or {}
    # the other stages train small networks whole
    mode = tuning.get("mode", "lora") if "tuning" in model else "full"
    shards, name = strategy in ("fsdp1", "fsdp2"), strategy.upper()
    if "tuning" not in model and shards:
        raise ValueError(f"trainer.strategy {name} shards a language model, which this stage does not train; take ddp")
    refuse(mode, strategy, accelerator, optimization.get("optimizer", "adamw"))
    dtype = llm.get("dtype", "float32")
    refuse_flat(
        strategy,
        dtype,
        dora=tuning.get("dora", False),
        form=inputs.get("form", "codes"),
        input_map=inputs.get("map", False),
    )
    if shards and str(trainer["precision"]).startswith("16"):
        raise ValueError(
            f"trainer.strategy {name} does not compute in trainer.precision {trainer['precision']}; set it to"
            " bf16-mixed or 32-true, or take ddp"
        )
    if shards and trainer["inference_mode"]:
        raise ValueError(
            f"trainer.strategy {name} cannot train weights that a validation gathered in inference mode;"
            " set trainer.inference_mode to false (configs/hardware/fsdp2.yaml does)"
        )
    if accelerator == "cuda" and torch.cuda.is_available():
        keys = {"trainer.precision": str(trainer["precision"])}
        if "tuning" in model:
            keys["llm.dtype"] = dtype
        refuse_bfloat16(keys, torch.cuda.get_device_name(), torch.cuda.get_device_capability())


def _accelerator(given: Any) -> str:
    """What ``auto`` and ``gpu`` come to on this machine."""
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if given == "gpu" and found == "cpu":
        return "cuda"  # Lightning says that there is none
    return found if given in ("auto", "gpu") else str(given)


def _strategy(trainer: Any, accelerator: str) -> str:
    """The trainer's strategy by the names of ``refuse``; unknown ones by their own."""
    given, devices = trainer["strategy"], trainer["devices"]
    name = given if isinstance(given, str) else given["class_path"].rsplit(".", 1)[-1]
    if name == "auto":
        one = devices == "auto" and accelerator != "cuda"
        return "single" if (one or str(devices) in ("1", "[0]", "0,")) and trainer["num_nodes"] == 1 else "ddp"
    if name.startswith(("ddp", "DDP")):
        return "ddp"
    known = {"single_device": "single", "SingleDeviceStrategy": "single", "FSDP1": "fsdp1", "FSDP2": "fsdp2"}
    return known.get(name, name)
