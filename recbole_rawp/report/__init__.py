"""Records become words, tables, pictures and pages.

May import: `evaluation`, `training` for their records. Must not enter: models, RecBole's data, attacks.
"""
