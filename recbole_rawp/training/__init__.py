"""Both stages of RAWP-FT inside RecBole's `fit`: trainers, and what hooks into them as callbacks.

May import: `host` and below. Must not enter: test data, reports. What is to happen in training is a new callback; what
it has to remember is a field of `state.TrainingState`.
"""
