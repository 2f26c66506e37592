"""A script of tests/references on two gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

from one_machine_slurm import free_port

ROOT = Path(__file__).parents[1]


def start_two_ranks(script, *arguments):
    """Both processes, with torchrun's variables."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    known = {"PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    command = [sys.executable, str(ROOT / "tests/references" / script), *map(str, arguments)]
    environments = [{**os.environ, "OMP_NUM_THREADS": "1", **known, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [subprocess.Popen(command, cwd=ROOT, env=one, stderr=subprocess.PIPE, text=True) for one in environments]


def on_two_ranks(script, *arguments):
    """Exit codes and what was said on stderr, of both."""
    ranks = start_two_ranks(script, *arguments)
    errors = [rank.communicate()[1] for rank in ranks]
    return [rank.returncode for rank in ranks], "\n".join(error[-3000:] for error in errors)
