"""Train, harden, attack and report from the source tree: `python run_recbole_rawp.py --help`."""

from __future__ import annotations

import sys

from recbole_rawp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
