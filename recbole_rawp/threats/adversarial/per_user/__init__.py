"""Attacks with one change for each user of a batch, computed without a model per user where possible.

May import: `core`, `model`, `threats.adversarial.method`. Must not enter: RecBole.
"""
