"""RecBole's scoring and metrics as a measuring instrument: fixed candidates, unrounded values, user by user.

May import: `host`. Must not enter: what is done with a measurement.
"""
