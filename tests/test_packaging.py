import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

import skeleton_llm
from skeleton_llm.cli.main import _foreign_room, configs, main

ROOT = Path(__file__).parents[1]


def test_packages_of_the_wheel_are_those_of_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert set(listed) == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"}


def test_rooms_are_ours_and_configs_are_found():
    assert _foreign_room() is None
    assert (configs() / "stage1.yaml").is_file()


def test_a_shadowed_room_is_told(monkeypatch, tmp_path, capsys):
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("")
    monkeypatch.setattr(
        "skeleton_llm.cli.main.find_spec", lambda room: type("S", (), {"origin": str(tmp_path / room / "x")})
    )
    assert main(["fit"]) == 1
    assert "uninstall the other distribution" in capsys.readouterr().err


def test_constraints_pin_every_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    names = {requirement.split(";")[0].split("[")[0] for requirement in requires("skeleton-llm") or []}
    plain = {name.split("<")[0].split(">")[0].split("=")[0].strip().lower() for name in names}
    assert plain <= pinned


def test_products_are_at_the_door():
    assert {"ActionTokenizer", "Recognizer"} == set(skeleton_llm.__all__)
    assert skeleton_llm.Recognizer.__name__ == "Recognizer"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = skeleton_llm.Nothing
