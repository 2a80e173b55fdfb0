"""A trained model under threats: records, user by user, with self-checks and statistics.

May import: `host` and below. Must not enter: training, words for a report.
"""
