"""One job each, from settings to a folder of results: train, attack, rank, harden, tune, convert, compare.

May import: everything but `cli`. Must not enter: commands; what was typed comes in as `argv`.
"""
