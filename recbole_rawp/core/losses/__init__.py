"""Losses that attacks on all users climb: the model's own, and smooth forms of ranking metrics.

May import: `core`. Must not enter: RecBole, which gives what they are made of as callables and tensors.
"""
