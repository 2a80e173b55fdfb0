"""Data sets that others publish -> RecBole's files: `recbole-rawp convert` and `fetch`.

May import: errors. Must not enter: RecBole, torch.
"""
