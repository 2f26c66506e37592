"""A real SLURM on this machine: two emulated nodes, everything in one folder, nothing in /etc; needs root, no systemd.

Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
_PATH = f"/usr/sbin:{os.environ['PATH']}"
_NODES = 2
_REQUEUED_AFTER = 5  # seconds that a requeued job waits at least; 120 on a real cluster, and less than 5 means 120
_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeued_after}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
SlurmdTimeout=30
InactiveLimit=0
MinJobAge=7200
GresTypes=gpu
PartitionName=tests Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here."""
    if os.geteuid() != 0:
        return "a SLURM of our own needs root"
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return f"a SLURM of our own needs an address for this machine's name, {socket.gethostname()}"
    absent = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    return f"a SLURM of our own needs {', '.join(absent)}" if absent else None


class Slurm:
    """Commands to a running SLURM, each with ``environment``."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """A job as ``scontrol`` tells it, ended ones too."""
        return dict(
            word.split("=", 1) for word in self.run("scontrol", "show", "job", "-o", job).split() if "=" in word
        )

    def wait(self, job: str, *states: str, seconds: float) -> dict[str, str]:
        """Its facts once it is in one of the states."""
        end = time.monotonic() + seconds
        while (facts := self.facts(job))["JobState"] not in states:
            assert time.monotonic() < end, f"job {job} is not {' or '.join(states)} after {seconds} s: {facts}"
            time.sleep(0.2)
        return facts


@contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """A SLURM that is ended by the process ids in ``folder``, whatever happens."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
    try:
        _start(folder, environment)
        yield Slurm(environment)
    finally:
        _end(folder, environment)


def free_port(count: int = 1) -> int:
    """The first of ``count`` ports in a row that nobody listens at."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + count < 65536 and all(_is_free(first + more) for more in range(count)):
            return first
    raise OSError(f"no {count} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _start(folder: Path, environment: dict[str, str]) -> None:
    for name in ("state", "munge"):
        (folder / name).mkdir(parents=True)
    for path in (folder, folder / "munge"):
        path.chmod(0o755)  # munged refuses others
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host, port = socket.gethostname(), free_port(_NODES + 1)
    nodes = "".join(
        f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + node}"
        " CPUs=64 RealMemory=500000 Gres=gpu:2 State=UNKNOWN\n"  # pretended, so that real headers run
        for node in range(1, _NODES + 1)
    )
    conf = _CONF.format(host=host, port=port, folder=folder, nodes=_NODES, requeued_after=_REQUEUED_AFTER)
    (folder / "slurm.conf").write_text(conf.replace("PartitionName", nodes + "PartitionName"))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    munged = ["munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"]
    munged += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge/seed"]
    daemons = [munged, ["slurmctld", "-c", "-f", f"{folder}/slurm.conf"]]
    daemons += [["slurmd", "-f", f"{folder}/slurm.conf", "-N", f"n{node}"] for node in range(1, _NODES + 1)]
    for daemon in daemons:
        subprocess.run(daemon, env=environment, check=True, timeout=30, capture_output=True)
    end = time.monotonic() + 30
    while _answer(["sinfo", "--noheader", "--states=idle", "--format=%D"], environment) != str(_NODES):
        assert time.monotonic() < end, f"the nodes do not come up: see {folder}/slurmctld.log"
        time.sleep(0.2)


def _answer(command: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=False
    ).stdout.strip()


def _end(folder: Path, environment: dict[str, str]) -> None:
    """End jobs, then daemons, each by its process id."""
    jobs = ["squeue", "--noheader", "--format=%A"]
    for job in _answer(jobs, environment).split():
        _answer(["scancel", "--signal=KILL", job], environment)  # a run takes its time to leave on anything less
        _answer(["scancel", job], environment)
    end = time.monotonic() + 30
    while _answer(jobs, environment) and time.monotonic() < end:  # without the daemons nobody ends what is left
        time.sleep(0.2)
    pids = [folder / f"slurmd-n{node}.pid" for node in range(1, _NODES + 1)]
    pids += [folder / "slurmctld.pid", folder / "munged.pid"]
    processes = [int(pid.read_text()) for pid in pids if pid.is_file() and pid.read_text().strip()]
    for number, seconds in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        for process in filter(_is_alive, processes):
            os.kill(process, number)
        end = time.monotonic() + seconds
        while any(map(_is_alive, processes)) and time.monotonic() < end:
            time.sleep(0.1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
