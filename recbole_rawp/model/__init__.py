"""Networks that RecBole lacks: the backbones that the attacks' published results are about.

`sparse_linear` needs torch and numpy only, `mlp` RecBole too; `host.models` lets RecBole find them. Checkpoints name
these modules, so they stay where they are. May import: `core`. Must not enter: training, attacks.
"""
