"""The command on one of two gloo ranks; rank 1 is killed halfway through a file: killed_ranks.py PART ARGUMENT...

PART is what the file's path has in it. LOCAL_RANK, MASTER_ADDR and MASTER_PORT are torchrun's.
"""

import os
import signal
import sys
from pathlib import Path

from skeleton_llm.cli.main import main

sync = os.fsync


def cut(handle):
    path = Path(f"/proc/self/fd/{handle}").readlink()
    if sys.argv[1] in str(path) and os.environ["LOCAL_RANK"] == "1":
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)


if __name__ == "__main__":
    os.fsync = cut
    sys.exit(main(sys.argv[2:]))
