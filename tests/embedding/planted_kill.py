"""The command `looktwice embed` in small pieces, killed, stopped or out of room at a given place.

    python planted_kill.py WHERE,… ARGUMENTS…

Each WHERE is a process of its own, forked after the imports; one line tells how each ended, and what it
printed. It counts writes: "kill:3" ends the process at the fourth; "int:3" sends it Ctrl-C there; "join" kills
while the whole file is written; "names" after the first file has its name; "full:3" finds no room.
"""

import errno
import os
import signal
import sys

import torch

from looktwice import features
from looktwice.cli import main
from looktwice.embedding import embed, pieces

features.BLOCK = 8
embed.PIECE_BLOCKS = 2
torch.set_num_threads(1)
what, number, writes = "", "", 0
write, rows, move = pieces.write_atomic, embed._rows, embed.move_new


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def writing(path, content):
    global writes
    if path.name.startswith("piece") and what in ("kill", "int", "full"):
        if writes == int(number):
            if what == "kill":  # half of a piece is on the disk, under a name of its own
                path.with_name(f".{path.name}.half").write_bytes(content[: len(content) // 2])
                die()
            if what == "int":
                os.kill(os.getpid(), signal.SIGINT)
            if what == "full":
                raise_full()
        writes += 1
    write(path, content)


def raise_full():
    from looktwice.storage import plainly

    with plainly(embed.Path("x")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def counting(*arguments):
    global writes
    writes += what == "join"
    if what == "join" and writes == int(number):
        die()
    return rows(*arguments)


def moving(source, target):
    move(source, target)
    if what == "names":
        die()


def run():
    """Run the command in a process of its own; return its exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        sys.stderr = sys.stdout
        code = main(sys.argv[2:])
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


embed._rows, embed.move_new = counting, moving
pieces.write_atomic = writing
for where in sys.argv[1].split(","):
    what, _, number = where.partition(":")
    print(f"{where} ended with {run()}", flush=True)
