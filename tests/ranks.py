"""A script of tests/references on two gloo ranks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def on_two_ranks(script, *arguments):
    """Exit codes and what was said on stderr, of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    known = {**os.environ, "PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    command = [sys.executable, str(ROOT / "tests/references" / script), *map(str, arguments)]
    ranks = [
        subprocess.Popen(command, env={**known, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    return [rank.returncode for rank in ranks], "\n".join(error[-3000:] for error in errors)
