"""NVIDIA's management library, asked without CUDA: which GPUs there are, and how much energy they have taken."""

import ctypes
import os
from typing import Any


def _library() -> Any:
    """The library, started; None without one."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name each GPU by: what it names already, else 0, 1, ... in PCI order."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    library, count = _library(), ctypes.c_uint(0)
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    return [str(number) for number in range(count.value)]


def joules(gpu: str) -> float | None:
    """Energy that ``gpu`` (a number in PCI order or a UUID) took since its driver started; None where nobody tells."""
    library = _library()
    if library is None:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong(0)
    if gpu.isdigit():
        failed = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(gpu)), ctypes.byref(handle))
    else:
        failed = library.nvmlDeviceGetHandleByUUID(gpu.encode(), ctypes.byref(handle))
    if failed or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
        return None
    return millijoules.value / 1000
