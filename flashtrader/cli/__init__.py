"""The `flashtrader` command. Commands import what they need when they run, so that `--help` answers in a blink."""

import sys

import typer

from flashtrader.cli import backtest, bench, fetch, predict, train
from flashtrader.cli.console import fail, say

app = typer.Typer(
    name="flashtrader",
    help="Fetch market bars, train long-context transformers on them, forecast, and backtest the forecasts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(fetch.fetch)
app.command()(train.train)
app.command()(predict.predict)
app.command()(backtest.backtest)
app.add_typer(bench.app)


def main() -> None:
    """Run the command line; every foreseen error is one line on standard error and an exit code.

    `--debug`, anywhere, shows the traceback instead.
    """
    from flashtrader.errors import FlashtraderError

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except FlashtraderError as error:
        if debug:
            raise
        fail(error, error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        fail(RuntimeError(f"unexpected {type(error).__name__}: {error}; call again with --debug to see where"), 1)
