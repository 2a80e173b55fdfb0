"""Stage 2: rank the modules, repair the weakest, choose by validation data.

May import: what `training` may, and its state. Must not enter: trainers, test data.
"""
