"""What can be typed: `main` finds the command among the words, `commands` holds one file for each.

May import: everything; but only when a command runs, so that `--help` answers at once. Must not enter: work.
"""
