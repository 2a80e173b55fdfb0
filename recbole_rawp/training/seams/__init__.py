"""Where our trainers meet somebody else's: how its methods are called, how its loop takes the loss, what hides ours.

May import: `core`. Must not enter: what is trained.
"""
