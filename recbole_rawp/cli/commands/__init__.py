"""The commands, one file each: the job that it calls, how its end is printed, what the command line must know of it.

A new one is a file with a `COMMAND`, and a line in `main`. May import: at the top nothing that imports torch or
RecBole. Must not enter: work.
"""
