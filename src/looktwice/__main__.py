"""``python -m looktwice``."""

import sys

from looktwice.cli import main

sys.exit(main())
