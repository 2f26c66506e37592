"""NVIDIA's library, played by an object with its functions."""

from types import SimpleNamespace

import pytest

from skeleton_llm.ablation import gpus


@pytest.fixture
def library(monkeypatch):
    """Two GPUs; the first knows its energy."""

    def count(out):
        out._obj.value = 2
        return 0

    def by_index(number, out):
        out._obj.value = number.value + 1
        return 0 if number.value < 2 else 2

    def by_uuid(name, out):
        out._obj.value = 1
        return 0 if name == b"GPU-1" else 2

    def energy(handle, out):
        out._obj.value = 123_456
        return 0 if handle.value == 1 else 3

    made = SimpleNamespace(
        nvmlDeviceGetCount_v2=count,
        nvmlDeviceGetHandleByIndex_v2=by_index,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    monkeypatch.setattr(gpus, "_library", lambda: made)
    return made


def test_gpus_are_those_that_the_environment_names_or_all(library, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.visible_gpus() == ["0", "1"]
    for given, names in (("1", ["1"]), ("0, GPU-1", ["0", "GPU-1"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert gpus.visible_gpus() == names


def test_energy_is_in_joules_where_the_gpu_tells(library):
    assert gpus.joules("0") == gpus.joules("GPU-1") == 123.456
    assert gpus.joules("1") is None
    assert gpus.joules("7") is None
    assert gpus.joules("MIG-1") is None


def test_without_the_library_there_are_none(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", absent)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.visible_gpus() == []
    assert gpus.joules("0") is None
