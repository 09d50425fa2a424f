"""All commands. They import what they need when they run, so that `--help` answers in a blink."""

import errno
import re
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from flashtrader import __version__
from flashtrader.cli import STOPPED, backtest, bench, fetch, predict, runs, train, verify
from flashtrader.cli.console import EXIT_CODES, fail, say

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="flashtrader",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fetch market bars, train long-context transformers on them, forecast, and backtest the forecasts."""


app.command()(fetch.fetch)
app.command()(train.train)
app.command()(predict.predict)
app.command()(backtest.backtest)
app.add_typer(runs.app, name="runs")
app.add_typer(bench.app, name="bench")
app.command()(verify.verify)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse a value that is empty: a path would be taken for the working directory, a host for the real exchange."""
    from flashtrader.errors import ConfigError

    for before, argument in zip(["flashtrader", *arguments], arguments, strict=False):
        if not argument.strip() or re.fullmatch("--[a-z-]+=", argument):
            where = argument.rstrip("=") if argument.strip() else f"after {before}"
            raise ConfigError(f"{where}: an empty value; give one (is a variable of the shell not set?)")


def _refuse_repeated(arguments: list[str]) -> None:
    """Refuse an option that is given twice where one value is taken: the first would be lost without a word."""
    from flashtrader.errors import ConfigError

    command: Any = get_command(app)
    context = None
    while command is not None:
        context = typer.Context(command, parent=context, **command.context_settings)
        _, arguments, given = command.make_parser(context).parse_args(arguments)
        for option in given:
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag) and given.count(option) > 1:
                raise ConfigError(f"{option.opts[0]}: given more than once, and takes one value; leave one")
        commands = command.commands if isinstance(command, TyperGroup) else {}
        command, arguments = commands.get(next(iter(arguments), "")), arguments[1:]


def run() -> None:
    """Do what the command line asks for, and end the process."""
    from flashtrader.errors import FlashtraderError, is_out_of_memory

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rather than lose a minus sign, or all, in an ASCII locale
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        _refuse_empty(arguments)
        _refuse_repeated(arguments)
        exit_code = app(arguments or ["--help"], standalone_mode=False)
        if exit_code == EXIT_CODES["interrupted"]:  # and the command has said nothing of it
            say(STOPPED)
        sys.exit(exit_code)
    except FlashtraderError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except typer.TyperException as error:
        fail(error.format_message().replace("Value error, ", ""), 2)  # pydantic's words for our type errors
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        advice = "make room, or give another path" if error.errno in _FULL else "give another path"
        fail(f"{error.filename or 'the disk'}: {error.strerror or error}; {advice}", 1)
    except Exception as error:
        if debug:
            raise
        if is_out_of_memory(error):
            fail(f"out of memory ({error}); ask for less at once: fewer bars, symbols or features, smaller batches", 1)
        fail(f"unexpected {type(error).__name__}: {error}; call again with --debug to see where", 1)
