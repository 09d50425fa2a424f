"""The `flashtrader` command. It loads nothing before `main` is at work, which answers Ctrl-C from then on."""

import sys

STOPPED = "stopped; every file is whole, and the same command begins again"


def main() -> None:
    """Run the command line; every foreseen error is one line on standard error and an exit code.

    `--debug`, anywhere, shows the traceback instead.
    """
    try:
        from flashtrader.cli.commands import run

        run()
    except KeyboardInterrupt:  # while it loads, or as it ends
        sys.stderr.write(f"{STOPPED}\n")
        sys.exit(130)
