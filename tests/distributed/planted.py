"""The command with something planted: ``PLANT`` is what, in which process, at which step."""

import os
import signal
import sys
import time
from pathlib import Path

from looktwice import storage, train
from looktwice.cli import main

what, process, step = os.environ.get("PLANT", "nothing:0:0").split(":")
here = os.environ["RANK"] == process
plain_step = train.train_step


def planted_step(training, batch, *others):
    reached = batch.step >= int(step)
    if what in ("INT", "TERM") and reached:
        if batch.step == int(step) and here:
            os.kill(os.getppid(), getattr(signal, f"SIG{what}"))  # torchrun, as a terminal does
        time.sleep(0.3)
    if what == "own" and here and batch.step == int(step):
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "kill" and here and reached:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise" and here and reached:
        raise ValueError("the planted error")
    if what == "full" and here and reached:
        storage._write_synced = full
    return plain_step(training, batch, *others)


def full(path, data):
    raise OSError(28, "No space left on device", str(path))


train.train_step = planted_step

if __name__ == "__main__":
    sys.argv[0] = str(Path(train.__file__).with_name("__main__.py"))
    sys.exit(main())
