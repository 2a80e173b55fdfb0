"""Train, harden, attack and report from the source tree: `python run_recbole_rawp.py --help`."""

import sys

from recbole_rawp.cli import main

if __name__ == "__main__":
    sys.exit(main())
