"""`flashtrader bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flashtrader.cli.console import AsJson, ConfigPath, DataDir, Overrides, RunsDir, UnusedDir, say, show

if TYPE_CHECKING:
    from flashtrader.benchmarks.throughput import Sizes

OutDir = Annotated[Path, typer.Option("--out", help="Where figures and pictures are written.")]
QUICK_LENGTHS = "512,1024,2048,4096"
QUICK_BACKENDS = "naive,sdpa,flash,nn.MultiheadAttention"
QUICK_SECONDS = 0.5

app = typer.Typer(help="Measure attention and throughput on this machine; without an argument, a quick round of all.")


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure attention and throughput on this machine; without an argument, a quick round of all."""
    if context.invoked_subcommand is None:
        from flashtrader.benchmarks.throughput import QUICK

        attention(lengths=QUICK_LENGTHS, backends=QUICK_BACKENDS, max_seconds=QUICK_SECONDS)
        _throughput(QUICK, Path("bench"), as_json=False)
        if configs := _own_configs("configs/smoke"):
            memory(configs)


@app.command()
def attention(
    lengths: Annotated[
        str, typer.Option("--lengths", help="Tokens of a sequence, separated by commas.")
    ] = "512,1024,2048,4096,8192,16384,32768,65536,131072",
    backends: Annotated[
        str | None, typer.Option("--backends", help="Backends and references, separated by commas; all unless given.")
    ] = None,
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
    """Measure every attention backend: time and peak memory against length, causal and windowed, both directions.

    With it go the IO model of flash attention, and two articles' tables made again on this machine.
    """
    import torch

    from flashtrader.attention import BACKENDS, AttentionPattern
    from flashtrader.attention.cost import AttentionShape
    from flashtrader.benchmarks.attention import bench_attention, fastest_backend
    from flashtrader.benchmarks.attention_plots import plot_io, plot_measured
    from flashtrader.benchmarks.io_model import io_model
    from flashtrader.benchmarks.published import reproduce
    from flashtrader.benchmarks.references import REFERENCES
    from flashtrader.cli.attention_tables import io_tables, measured_tables, notes, one_line, reproduction_tables
    from flashtrader.files import write_json

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    causal, windowed = AttentionPattern(), AttentionPattern(window_steps=window)
    measured = bench_attention(
        lengths=_lengths(lengths),
        patterns=(causal, windowed),
        backends=(*BACKENDS, *REFERENCES) if backends is None else backends.split(","),
        seconds=max_seconds,
        device=device.type,
        dtype=dtype,
        batch=batch,
        heads=heads,
        head_dim=head_width,
        on_row=lambda row: say(one_line(row)),
    )
    shape = AttentionShape(batch, 2, 2, heads, head_width, dtype)
    model = io_model(measured, causal, shape, fastest_backend(shape, causal, device))
    found = reproduce(
        device=device,
        dtype=dtype,
        heads=heads,
        head_dim=head_width,
        seconds=max_seconds,
        on_row=lambda row: say(one_line(row)),
    )
    payload = measured.to_json() | {"io_model": model and model.to_json(), "articles": found.to_json()}
    write_json(out / "attention.json", payload)
    pictures = plot_measured(measured, out)
    tables = measured_tables(measured)
    if model is not None:
        pictures.append(plot_io(model, measured.rows, measured.machine, out))
        tables += io_tables(model)
    tables += reproduction_tables(found)
    written = f"written: {', '.join(map(str, [out / 'attention.json', *pictures]))}"
    show(tables, payload, as_json, [*notes(measured), written])


@app.command()
def throughput(
    out: OutDir = Path("bench"),
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: UnusedDir = Path("runs"),  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Measure how much work a second is done, and in how much memory, beside the plain way of doing it."""
    from flashtrader.benchmarks.throughput import Sizes

    _throughput(Sizes(), out, as_json)


def _throughput(sizes: "Sizes", out: Path, as_json: bool) -> None:
    from flashtrader.benchmarks.throughput import measure_throughput
    from flashtrader.cli.throughput_tables import meanings, one_line, throughput_table
    from flashtrader.files import write_json

    measured = measure_throughput(sizes, on_row=lambda row: say(one_line(row)))
    write_json(out / "throughput.json", measured.to_json())
    notes = [*meanings(measured), f"written: {out / 'throughput.json'}"]
    show([throughput_table(measured)], measured.to_json(), as_json, notes)


@app.command()
def memory(
    configs: Annotated[
        list[Path] | None, typer.Argument(help="Configs to train two steps of; those in configs/ unless given.")
    ] = None,
    out: OutDir = Path("bench"),
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: UnusedDir = Path("runs"),  # noqa: ARG001
    as_json: AsJson = False,
) -> None:
    """Measure the peak memory of training on this CPU, beside what `train --dry-run` estimates."""
    from dataclasses import asdict

    import torch

    from flashtrader.benchmarks.machine import machine
    from flashtrader.benchmarks.memory import measure_configs
    from flashtrader.cli.throughput_tables import memory_table
    from flashtrader.errors import ConfigError
    from flashtrader.files import write_json

    paths = configs or _own_configs()
    if not paths:
        raise ConfigError("no configs/ here; name the configs to measure: flashtrader bench memory X.yaml ...")
    rows = measure_configs(paths)
    payload = {"rows": [row.to_json() for row in rows], "machine": asdict(machine(torch.device("cpu")))}
    write_json(out / "memory.json", payload)
    show([memory_table(rows)], payload, as_json, [f"written: {out / 'memory.json'}"])


def _own_configs(folder: str = "configs") -> list[Path]:
    """Return the configs here that train a transformer."""
    from flashtrader.config import load_config

    return [path for path in sorted(Path(folder).rglob("*.yaml")) if load_config(path).plain_family is None]


@app.command()
def context(
    config: ConfigPath = None,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Bars of the attention window, separated by commas.")
    ] = "64,256,1024,4096",
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings at each context.", min=1)] = 3,
    part: Annotated[
        Literal["validation", "test"], typer.Option("--split", help="Bars that are scored; choose on validation.")
    ] = "validation",
    overrides: Overrides = None,
    out: OutDir = Path("bench"),
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("bench/runs"),
    as_json: AsJson = False,
) -> None:
    """Measure whether longer context pays: the same training at each context, with several seeds."""
    from flashtrader.config import load_config
    from flashtrader.errors import ConfigError

    if config is None:
        raise ConfigError("give --config X.yaml, the experiment to train at each context")
    contexts_bars = _lengths(contexts, "--contexts")
    experiment = load_config(config, overrides or [])

    from flashtrader.benchmarks.context import bench_context
    from flashtrader.benchmarks.context_plots import plot_context
    from flashtrader.cli.context_tables import context_tables, training_line
    from flashtrader.files import write_json

    measured = bench_context(
        experiment,
        contexts_bars,
        seeds,
        data_dir=data_dir,
        runs_dir=runs_dir,
        part=part,
        on_training=lambda training: say(training_line(training)),
    )
    picture = plot_context(measured, out / "context.png")
    write_json(out / "context.json", measured.to_json())
    notes = [measured.verdict, "", f"written: {out / 'context.json'}, {picture}"]
    show(context_tables(measured), measured.to_json(), as_json, notes)


def _lengths(text: str, option: str = "--lengths") -> list[int]:
    from flashtrader.errors import ConfigError

    try:
        lengths = sorted({int(length) for length in text.split(",")})
    except ValueError:
        raise ConfigError(f"{option} {text}: write whole numbers separated by commas") from None
    if lengths[0] < 1:
        raise ConfigError(f"{option} {text}: a sequence has at least one token")
    if lengths[-1] >= 2**32:
        raise ConfigError(f"{option} {text}: lengths go up to {2**32 - 1:,}")
    return lengths
