"""One job each, from settings to a folder of results: train, attack, rank, harden, tune, compare, data sets.

May import: everything but `cli`. Must not enter: commands; what was typed comes in as `argv`.
"""
