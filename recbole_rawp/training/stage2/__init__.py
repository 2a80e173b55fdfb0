"""Stage 2 ranks the modules, repairs the weakest, and chooses by validation data.

May import: what `training` may, its callbacks and its state. Must not enter: trainers, test data.
"""
