"""The command line: each command parses, makes one public call, and prints.

Nothing heavy is imported until a command needs it. Each command is one public call.
"""


def main() -> None:
    """Run the command line (`app.main`)."""
    from .app import main as run

    run()
