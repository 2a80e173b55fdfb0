"""Which networks does RecBole lack?  The backbones that the attacks' published results are about.

`sparse_linear` needs torch and numpy only, `mlp` RecBole too, and `place` neither.
"""
