"""`python scripts/segment.py --url URL` is `fastseg segment --url URL`."""

import sys

from fastseg.cli.app import app

app(["segment", *sys.argv[1:]], prog_name="fastseg")
