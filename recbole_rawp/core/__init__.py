"""The numeric method, torch alone: which weights, which ball, which ascent, how a model runs with other weights.

May import: `errors`, torch, numpy. Must not enter: RecBole, files, settings, words for a report.
"""
