"""The parts of a run's report, one file each.

May import: `report`. A new part is a file here.
"""
