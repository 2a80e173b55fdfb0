"""What can be typed.

May import: everything; but only when a command runs. Must not enter: work.
"""
