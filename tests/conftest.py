"""Property tests draw the same examples every time; HYPOTHESIS_PROFILE=explore draws others.

LOOKTWICE_CASES=10000 sets how many cases show that losses stay finite (500 otherwise).
"""

import os
import signal

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell ignores Ctrl-C in what it starts in the background, and so would every process below.
signal.signal(signal.SIGINT, signal.default_int_handler)
