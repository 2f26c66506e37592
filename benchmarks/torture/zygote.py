"""A process that has everything imported and forks one rank of a run for each line that it is sent.

``python -m benchmarks.torture.zygote`` reads JSON lines (``arguments``, ``environment``, ``log``, and ``traps``,
``folder`` and ``notes`` for what shall happen) and writes one for each process started, and one for each ended.
"""

import json
import os
import select
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.torture.runs import ROOT
from benchmarks.torture.traps import Sprung, Trap

_IMPORTED = (
    "skeleton_llm.cli.fit",
    "lightning_modules",
    "datamodules",
    "callbacks",
    "peft.tuners.lora",
    "transformers.models.llama.modeling_llama",
    "bitsandbytes",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
)


def serve() -> None:
    """Fork until the input ends; only in children it returns, with their arguments in ``sys.argv``."""
    for name in _IMPORTED:
        import_module(name)
    threads = len([*Path("/proc/self/task").iterdir()])
    assert threads == 1, f"{threads} threads would be lost in every child"
    _tell({"ready": os.getpid()})
    rest = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            read = os.read(0, 65536)
            if not read:
                os._exit(0)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                process = os.fork()
                if process == 0:
                    _become(asked)
                    return
                _tell({"started": process})
        while (ended := _ended()) is not None:
            _tell({"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _ended() -> tuple[int, int] | None:
    try:
        process, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (process, status) if process else None


def _tell(what: dict[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _become(asked: dict[str, Any]) -> None:
    """A rank of a run, by its own name, in a session of its own."""
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)
    os.environ.update(asked["environment"])
    sys.argv = ["skeleton-llm", *asked["arguments"]]
    Sprung([Trap(**trap) for trap in asked["traps"]], Path(asked["folder"]), Path(asked["notes"])).install()


class Zygote:
    """The other end: starts ranks, and knows how they ended."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torture.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self._read("ready")

    def start(self, asked: dict[str, Any]) -> int:
        """The process that was forked."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        return int(self._read("started"))

    def poll(self, process: int) -> int | None:
        """Its exit code, negative for the signal that ended it; None while it runs."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            self._read("ended")
        return self.codes.get(process)

    def _read(self, wanted: str) -> Any:
        """Lines up to one that tells what is wanted."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            told = json.loads(line)
            if "ended" in told:
                self.codes[told["ended"]] = told["code"]
            if wanted in told:
                return told[wanted]
        raise RuntimeError("the zygote is dead")

    def close(self) -> None:
        """End it; ranks that still run are not its matter."""
        with self.process:  # closes both ends
            pass


if __name__ == "__main__":
    serve()
    from skeleton_llm.cli.main import main

    sys.exit(main())
