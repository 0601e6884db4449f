"""An export in the formats of other runtimes, each proved to be the same model: `fastseg export`.

`targets` names the formats; each is a module here. `converting` writes one, `parity` judges it.
"""
