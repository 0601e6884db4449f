"""The commands, a module for each group. Importing it registers them, in the order of --help."""

from . import data, training, studies, exports, judging, prediction, labelling, app, sources  # noqa: F401, I001
