"""``python -m graphfathom``."""

import sys

from graphfathom.cli import main

if __name__ == "__main__":
    sys.exit(main())
