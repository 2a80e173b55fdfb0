"""The only place that knows RecBole: its private names, its models' quirks, its defects, its data and its files.

May import: `config` and below, RecBole. Must not enter: training, attacks, reports.
"""
