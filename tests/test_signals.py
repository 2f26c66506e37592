import os
import signal
import subprocess
import sys
import time

import pytest

from skeleton_llm import signals


@pytest.fixture(autouse=True)
def _given_back():
    yield
    signals.restore()


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_raises_a_flag_and_a_second_one_breaks_nothing(number, capfd):
    before = signal.getsignal(number)
    assert signals.install()
    assert not signals.install()
    assert signals.raised() is None
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.raised() is number
    assert capfd.readouterr().err.count("saving at the next optimiser step") == 1
    signals.restore()
    assert signals.raised() is None
    assert signal.getsignal(number) is before


def test_a_process_that_starts_with_signals_held_back_takes_them_when_it_installs_its_flag(tmp_path):
    child = (
        "import time\nfrom skeleton_llm import signals\ntime.sleep(1)\nsignals.install()\nprint(signals.raised().name)"
    )
    with signals.held():
        started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    time.sleep(0.1)
    started.send_signal(signal.SIGUSR1)
    assert started.communicate(timeout=60)[0].strip() == "SIGUSR1"


def test_a_rank_ends_with_the_process_that_started_it(tmp_path):
    rank = "import time\nfrom skeleton_llm import signals\nsignals.leave_with_parent()\n"
    rank += "print('up', flush=True)\ntime.sleep(99)"
    first = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {rank!r}])\ntime.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", first], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"up\n"
        begin = time.monotonic()
        started.kill()
        assert b"ends: the process that started it is gone" in started.stderr.read()  # until both have closed it
    assert time.monotonic() - begin < 30
