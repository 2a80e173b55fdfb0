"""Finds the class of a model: RecBole's and ours by name, the user's own as `package.module:Class` or as it is.

May import: `errors`, RecBole. Must not enter: what a model needs once it is found; RecBole at the top of `networks`.
"""
