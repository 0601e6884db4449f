"""The commands, a module for each group. Importing it registers them, in the order of --help."""

from . import (  # noqa: F401  # isort: skip
    data,
    backbones,
    training,
    studies,
    exports,
    sharing,
    judging,
    prediction,
    measuring,
    labelling,
    app,
    serve,
    sources,
)
