"""What can be set: names, types, ranges, defaults and their reading into frozen settings.

May import: `threats` and below. Must not enter: RecBole's Config class, models, anything that runs.
"""
