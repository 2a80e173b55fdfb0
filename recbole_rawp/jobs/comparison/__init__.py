"""`recbole-rawp compare`: a grid of runs that goes on after a kill.

May import: `jobs`. Must not enter: tables and words.
"""
