"""Pictures of what was measured: curves over the level for print, by matplotlib, and for the page, by plotly.

May import: `report`.
"""
