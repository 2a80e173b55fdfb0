"""Ways in which a model comes to differ from what was trained, each measured at several levels.

May import: `core`, `model`. Losses, batches and users come in as callables and tensors. Must not enter: RecBole.
"""
