"""What a run says."""

import io

import pytest

from looktwice.console import TrainingConsole, clock, epoch_line

RECORD = {
    "epoch": 3, "step": 84, "loss": 4.5, "chance_loss": 6.236, "top1": 0.41,
    "learning_rate": 0.123456, "knn": 0.812, "health": {"alignment": 0.5},
    "time": {"seconds": 30.0, "pictures_per_second": 1234.5, "waiting_percent": 0.4,
             "memory_mb": 812.3},
}  # fmt: skip


def test_an_epochs_line_has_every_number_a_watcher_wants():
    line = epoch_line(RECORD, num_epochs=20, seconds_left=70.2)
    for part in ("epoch   3/20", "loss 4.500 (chance 6.236)", "top-1  41.0%", "k-NN 81.2%",
                 "lr 0.123", "1,234 pictures/s", "waiting 0.4 %", "812 MB", "1:10 left"):  # fmt: skip
        assert part in line


def test_the_untrained_networks_line_is_short():
    record = {**RECORD, "loss": None, "top1": None, "learning_rate": None, "knn": None}
    untrained = {**record, "epoch": 0, "step": 0}
    assert epoch_line(untrained, num_epochs=20, seconds_left=0) == "epoch   0/20  untrained"
    assert epoch_line(record, num_epochs=20, seconds_left=0) == "epoch   3/20  no step taken"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (-1, "0:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_without_a_terminal_lines_are_plain_and_whole():
    out = io.StringIO()
    with TrainingConsole(out) as console:
        console.say("[bold]not markup[/bold] " + "x" * 300)
        console.step(1, 10)
    assert out.getvalue() == "[bold]not markup[/bold] " + "x" * 300 + "\n"
