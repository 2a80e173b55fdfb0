"""Where our trainers meet somebody else's: how its methods are called, how its loop takes the loss, what hides ours.

May import: `host` and below. Must not enter: what is trained.
"""
