"""The command `looktwice`: its names, its errors, its exit codes; `commands` does the rest."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

import looktwice
from looktwice import launched
from looktwice.errors import LooktwiceError, PeerError, Stopped, UsageError

COMMANDS = {
    "demo": "Train, prove and report on the pictures that come with looktwice.",
    "preview": "Draw pictures, their crop boxes and the views that come out: a PNG and a page.",
    "pretrain": "Learn an encoder from unlabelled pictures.",
    "resume": "Continue a run to the end it was started for, exactly as if it had not stopped.",
    "eval": "Prove an encoder: k-NN, linear probe and few labels, beside two baselines.",
    "analyze": "Draw what an encoder makes of pictures: t-SNE, a map, where it looks.",
    "embed": "Write pictures' features to a file: Parquet, NumPy or CSV.",
    "search": "Find the pictures most alike to given ones.",
    "report": "Write a run's report, or compare several runs: one offline page.",
    "export": "Write an encoder for other tools, preprocessing included.",
    "study": (
        "Compare variants over seeds: a table with intervals, and a page. Here --minutes is the "
        "time after which no run is begun, and --seeds takes the place of --seed."
    ),
    "data": "Pack pictures into shards, an array or folders; check them for damage and doubles.",
    "doctor": "Say what this machine is, how fast, and what to mend; or check its gradients.",
    "recipes": "List the shipped recipes, or print one.",
}
DATA_COMMANDS = {
    "pack": "Write pictures as tar shards, one array or a folder of classes.",
    "check": "Say what pictures there are, which are bad, and which are there twice.",
}
TOGETHER = ("pretrain", "resume")
"""Commands that several processes run together."""

SAVED, INTERRUPTED = 75, 130
"""Exit codes after SIGTERM or SIGUSR1 (EX_TEMPFAIL of sysexits.h: try again), and after Ctrl-C."""

app = App(
    name="looktwice",
    help="Learn visual features from unlabelled pictures, and prove that they are good.",
    help_format="plaintext",
    help_epilogue="Start with: looktwice demo. --debug shows where an error comes from.",
    version=looktwice.__version__,
    default_parameter=Parameter(negative=()),
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.register_install_completion_command()  # type: ignore[no-untyped-call, unused-ignore]
_data = App(name="data", help=COMMANDS["data"], help_format="plaintext", sort_key=7)
for _name, _help in DATA_COMMANDS.items():
    _data.command(f"looktwice.commands:data_{_name}", name=_name, help=_help)
app.command(_data)
for _order, (_name, _help) in enumerate(COMMANDS.items()):
    if _name == "data":
        continue
    _function = "evaluate" if _name == "eval" else _name
    app.command(f"looktwice.commands:{_function}", name=_name, help=_help, sort_key=_order)


def command() -> NoReturn:
    """Run the command that the process was started for, and end the process."""
    launched.leave(main())


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 failure, 2 usage, 75 saved, 130 interrupted.

    Of processes that torchrun started together, the first one prints.
    """
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        with launched.quiet_unless_first():
            _check_processes(arguments)
            app([argument for argument in arguments if argument != "--debug"])
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
        by_user = number == signal.SIGINT
        if launched.rank() == 0:
            reason = "interrupted" if by_user else f"stopped by {signal.Signals(number).name}"
            print(f"looktwice: {reason}", file=sys.stderr)
        return INTERRUPTED if by_user else SAVED
    except BrokenPipeError:
        # The reader of a pipe left; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        launched.tell(_one_line(error), follows=isinstance(error, PeerError))
        return 2 if isinstance(error, UsageError | CycloptsError) else 1
    return 0


def _check_processes(arguments: list[str]) -> None:
    launched.check()
    command = next((a for a in arguments if a in COMMANDS), None)
    if launched.world_size() > 1 and command not in (None, *TOGETHER):
        raise UsageError(
            f"looktwice {command} runs in one process, not in {launched.world_size()}; start it "
            "without torchrun, and without WORLD_SIZE in the environment"
        )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, LooktwiceError | CycloptsError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
