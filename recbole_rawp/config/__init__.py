"""What can be set: names, types, ranges, defaults, and their reading into frozen settings.

Of RecBole's own options it knows the types.

May import: `threats` and below. Must not enter: RecBole's Config class, models, anything that runs.
"""
