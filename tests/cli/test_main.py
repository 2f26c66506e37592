import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from skeleton_llm.cli.main import main


def test_bare_help_answers_without_loading_torch():
    code = "import sys, skeleton_llm.cli.main as m; m.main(['--help']); sys.exit('torch' in sys.modules)"
    begin = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 5  # under a second on an idle machine; the true guard is that torch stays out
    assert "recognize" in out.stdout


def test_unknown_command(capsys):
    assert main(["fitt"]) == 2
    assert "unknown command 'fitt'" in capsys.readouterr().err


def test_the_version_is_that_of_pyproject(capsys):
    assert main(["--version"]) == 0
    stated = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"skeleton-llm {stated}\n"


@pytest.mark.parametrize("command", ["download", "prepare", "export", "recognize"])
def test_each_plain_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert command in capsys.readouterr().out


def test_abbreviated_options_are_refused(tmp_path):
    with pytest.raises(SystemExit) as left:
        main(["prepare", "synthetic", "--ou", str(tmp_path)])
    assert left.value.code == 2


def test_a_refusal_stands_alone_on_stderr_in_a_fresh_process(tmp_path):
    command = [sys.executable, "-m", "skeleton_llm.cli.main", "export", str(tmp_path / "none"), "--out", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 1
    assert len(out.stderr.splitlines()) == 1, out.stderr  # nothing of what the imports of peft and the like tell
