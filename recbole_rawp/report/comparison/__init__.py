"""The report on a comparison: means over seeds, intervals, tests, the Pareto front.

May import: `report`. Must not enter: how runs are started.
"""
