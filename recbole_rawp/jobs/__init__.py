"""One job each, from settings to a folder of results: train, attack, rank, harden, tune, convert, compare.

May import: everything but `cli`. Must not enter: parsing of words that were typed.
"""
