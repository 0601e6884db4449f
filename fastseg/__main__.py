"""`python -m fastseg` is `fastseg`."""

from .cli import main

main()
