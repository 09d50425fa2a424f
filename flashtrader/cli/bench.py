"""`flashtrader bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashtrader.cli.console import AsJson, Table, UnusedDir, say, show

if TYPE_CHECKING:
    from flashtrader.benchmarks.attention import AttentionBenchmark, Row

OutDir = Annotated[Path, typer.Option("--out", help="Where figures and pictures are written.")]
QUICK_LENGTHS = "512,1024,2048"

app = typer.Typer(help="Measure attention and throughput on this machine; without an argument, a quick round of all.")


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure attention and throughput on this machine; without an argument, a quick round of all."""
    if context.invoked_subcommand is None:
        attention(lengths=QUICK_LENGTHS, max_seconds=1.0)
        throughput()


@app.command()
def attention(
    lengths: Annotated[
        str, typer.Option("--lengths", help="Tokens of a sequence, separated by commas.")
    ] = "512,1024,2048,4096,8192,16384",
    window: Annotated[int, typer.Option("--window", help="Steps of the sliding window.", min=1)] = 512,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Longest time of one figure.", min=0.01)] = 5.0,
    heads: Annotated[int, typer.Option("--heads", min=1)] = 8,
    head_width: Annotated[int, typer.Option("--head-width", min=1)] = 64,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 1,
    out: OutDir = Path("bench"),
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: UnusedDir = Path("runs"),  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Measure every attention backend: time and peak memory against length, causal and windowed, both directions."""
    import torch

    from flashtrader.attention import BACKENDS, AttentionPattern
    from flashtrader.benchmarks.attention import MULTIHEAD, bench_attention
    from flashtrader.files import write_json

    on_cuda = torch.cuda.is_available()
    measured = bench_attention(
        lengths=_lengths(lengths),
        patterns=(AttentionPattern(), AttentionPattern(window_steps=window)),
        backends=(*BACKENDS, MULTIHEAD),
        seconds=max_seconds,
        device="cuda" if on_cuda else "cpu",
        dtype=torch.bfloat16 if on_cuda else torch.float32,
        batch=batch,
        heads=heads,
        head_dim=head_width,
        on_row=_say_row,
    )
    write_json(out / "attention.json", measured.to_json())
    pictures = measured.plot(out)
    notes = [f"written: {', '.join(map(str, [out / 'attention.json', *pictures]))}"]
    show(_attention_tables(measured), measured.to_json(), as_json, notes)


@app.command()
def throughput(
    out: OutDir = Path("bench"),
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: UnusedDir = Path("runs"),  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Measure how much work a second is done, beside the plain way of doing it."""
    from dataclasses import asdict

    import torch

    from flashtrader.benchmarks.attention import machine
    from flashtrader.benchmarks.backtest import measure_backtest
    from flashtrader.files import write_json

    speeds = measure_backtest()
    payload = {
        "rows": [
            {
                "work": "backtest",
                "size": f"{speed.num_bars:,} bars × {speed.num_assets} assets",
                "unit": "bar·assets/s",
                "ours": speed.engine_rate,
                "reference": speed.numpy_loop_rate,
                "reference_is": "a loop over the bars with the same formulas in numpy",
                "ratio": speed.engine_rate / speed.numpy_loop_rate,
            }
            for speed in speeds
        ],
        "machine": asdict(machine(torch.device("cpu"))),
    }
    write_json(out / "throughput.json", payload)
    rows = [
        (
            f"backtest, {speed.num_bars:,} bars × {speed.num_assets} assets",
            f"{speed.engine_rate / 1e6:,.0f} M bar·assets/s",
            f"{speed.numpy_loop_rate / 1e6:,.2f} M",
            f"{speed.engine_rate / speed.numpy_loop_rate:,.0f}×",
        )
        for speed in speeds
    ]
    columns = ("work", "flashtrader", "numpy loop", "ratio")
    show([Table("Throughput", columns, rows)], payload, as_json, [f"written: {out / 'throughput.json'}"])


def _lengths(text: str) -> list[int]:
    from flashtrader.errors import ConfigError

    try:
        lengths = sorted({int(length) for length in text.split(",")})
    except ValueError:
        raise ConfigError(f"--lengths {text}: write whole numbers separated by commas") from None
    if lengths[0] < 1:
        raise ConfigError(f"--lengths {text}: a sequence has at least one token")
    return lengths


def _say_row(row: "Row") -> None:
    say(f"{row.backend}, {row.pattern}, {row.direction}, {row.length:,} tokens: {_cell(row)}")


def _cell(row: "Row") -> str:
    if row.milliseconds is None:
        return str(row.no_number)
    memory = "" if row.peak_bytes is None else f", {row.peak_bytes / 2**20:,.0f} MiB"
    return f"{row.milliseconds:,.1f} ms{memory}"


def _attention_tables(measured: "AttentionBenchmark") -> list[Table]:
    """Return a table for each pattern and direction: a row per backend, a column per length."""
    tables = []
    for pattern, direction in dict.fromkeys((row.pattern, row.direction) for row in measured.rows):
        rows = [row for row in measured.rows if (row.pattern, row.direction) == (pattern, direction)]
        lengths = sorted({row.length for row in rows})
        backends = list(dict.fromkeys(row.backend for row in rows))
        cells = {(row.backend, row.length): row for row in rows}
        measurable = [name for name in backends if any(cells[name, length].milliseconds for length in lengths)]
        body = [(name, *(_short(cells[name, length]) for length in lengths)) for name in measurable]
        title = f"{pattern}, {direction}: milliseconds / peak MiB, by length"
        tables.append(Table(title, ("backend", *(f"{length:,}" for length in lengths)), body))
    reasons = {row.backend: str(row.no_number) for row in measured.rows if row.no_number and row.milliseconds is None}
    never = [name for name in reasons if all(row.milliseconds is None for row in measured.rows if row.backend == name)]
    if never:
        tables.append(Table("Not measured here", ("backend", "why"), [(name, reasons[name]) for name in never]))
    return tables


def _short(row: "Row") -> str:
    if row.milliseconds is None:
        return "–"
    return f"{row.milliseconds:,.1f} / {'?' if row.peak_bytes is None else f'{row.peak_bytes / 2**20:,.0f}'}"
