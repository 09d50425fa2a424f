"""`flashtrader bench`."""

import typer

app = typer.Typer(name="bench", help="Measure, on this machine.", invoke_without_command=True)
