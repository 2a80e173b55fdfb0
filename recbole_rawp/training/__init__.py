"""Stage 1 and 2 inside RecBole's `fit`: trainers, warm-up, resume; the search for a radius and stage 2 in folders.

May import: `host` and below. Must not enter: test data, reports.
"""
