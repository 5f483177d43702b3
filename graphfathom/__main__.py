"""``python -m graphfathom``."""

import sys

from graphfathom.cli import main

sys.exit(main())
