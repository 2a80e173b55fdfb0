"""What knows RecBole: its private names, its models' quirks, its defects, its data and its files.

Beside it, `training.adjustable` knows the private names of trainers, `evaluation` those of the evaluation loop.
May import: `config` and below, RecBole. Must not enter: training, attacks, reports.
"""
