"""Runs the command line: `python -m recbole_rawp --help`."""

from __future__ import annotations

import sys

from recbole_rawp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
