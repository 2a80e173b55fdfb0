"""Records become words, tables, pictures and pages.

May import: `evaluation` and below, for records and words. Must not enter: models, RecBole's data, attacks.
"""
