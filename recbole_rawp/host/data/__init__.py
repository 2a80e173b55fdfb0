"""Data as the user brings them: settings and files are looked at before RecBole reads them, and told apart afterwards.

May import: RecBole, torch, config. Must not enter: loaders, candidates (`ranking`), models.
"""
