"""Attacks with one change for each user of a batch, computed without a model per user where possible.

May import: `core`, `model`, `threats.adversarial.methods`. Must not enter: RecBole.
"""
