"""`rawp_radius: auto`: how the radius is found in training.

May import: what `training` may, and its state. Must not enter: trainers.
"""
