"""`rawp_radius: auto`: the radius is found in training.

May import: what `training` may, its callbacks and its state. Must not enter: trainers.
"""
