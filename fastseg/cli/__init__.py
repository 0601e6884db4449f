"""The command line: each command parses, makes one public call, and prints.

Heavy libraries are imported only when a command needs them.
"""


def main() -> None:
    """Run the command line (`app.main`)."""
    from .app import main as run

    run()
