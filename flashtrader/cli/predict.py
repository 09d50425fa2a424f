"""`flashtrader predict`."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashtrader.cli.console import AsJson, DataDir, RunName, RunsDir, Table, say, show

if TYPE_CHECKING:
    from flashtrader.forecasting.forecast import Forecasts
    from flashtrader.run import Run


class Part(StrEnum):
    """Which bars to forecast."""

    TEST = "test"
    ALL = "all"
    LATEST = "latest"


_MOST = 100_000
"""Bars of a rollout, or its paths: more fill the memory or take for ever, and tell no more."""


def predict(
    context: typer.Context,
    run: RunName = None,
    split: Annotated[
        Part, typer.Option("--split", help="Bars after the run's test boundary, every bar, or the newest closed one.")
    ] = Part.TEST,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Where to write; the run's forecasts.parquet, or latest.parquet for --split latest, unless given.",
            show_default=False,
        ),
    ] = None,
    rollout: Annotated[
        int | None,
        typer.Option(
            "--rollout",
            help="Family candles: go on from the newest bar for so many, each forecast from those before it.",
            min=1,
            max=_MOST,
            show_default=False,
        ),
    ] = None,
    num_paths: Annotated[
        int | None,
        typer.Option(
            "--paths",
            help="With --rollout, sample paths; 200 where the model has a distribution.",
            min=0,
            max=_MOST,
            show_default=False,
        ),
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option("--from", help="With --rollout, another bar to go on from: a time, UTC.", show_default=False),
    ] = None,
    num_starts: Annotated[
        int | None,
        typer.Option(
            "--starts",
            help="With --rollout, bars of the split from which the bands are checked; 10.",
            min=0,
            show_default=False,
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            help="Show where the model looks instead: at bars by opening time (TIME,TIME…), `latest`, or a number of "
            "bars spread over the test part.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on: forecast every bar as it closes, until Ctrl-C.")
    ] = False,
    num_bars: Annotated[
        int | None, typer.Option("--bars", help="With --follow, stop after as many bars.", min=1, show_default=False)
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", help="With --follow, another host that speaks the API.", show_default=False),
    ] = None,
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Forecast stored bars with a trained run.

    --split test and all write the run's forecasts.parquet, which `backtest`
    trades; latest writes latest.parquet and leaves that one alone.

    With --follow, fetch new closed bars as they come, forecast each, print a
    line for it (with --json, an object) and write them all to the run's
    live.parquet. Bars from files: read what others store.

    Family candles also writes candles.parquet, the forecast of each next
    candle, and pictures; with --rollout, rollout.parquet and a fan chart.

    Family orderbook also writes directions.parquet, the probabilities of down,
    flat and up; what they scored and earned; and a picture.

    With --attention, write the attention weights of the chosen bars, and
    pictures of them, into the run's attention/.
    """
    from flashtrader.cli.candle_forecasts import rollout_request
    from flashtrader.errors import ConfigError
    from flashtrader.forecasting.forecast import answer_run, forecast_run, keep_forecasts, write_forecasts
    from flashtrader.run import find_run

    chosen = find_run(runs_dir, run)
    modes = {"--follow": follow, "--attention": attention is not None, "--rollout": rollout is not None}
    asked = [option for option, given in modes.items() if given]
    if len(asked) > 1:
        raise ConfigError(f"give {' or '.join(asked)}, not both")
    for option, value in {"--bars": num_bars, "--base-url": base_url}.items():
        if value is not None and not follow:
            raise ConfigError(f"{option} needs --follow beside it")
    if not follow:  # which may go on for weeks, and writes one file at once
        context.with_resource(chosen.alone())
    request = rollout_request(chosen, rollout, num_paths, decision, num_starts)
    if attention is not None:
        from flashtrader.cli.attention_maps import show_attention

        return show_attention(chosen, data_dir, attention, out, as_json)
    if follow:
        return _follow(chosen, data_dir, base_url, num_bars, out, as_json)
    path = out or (chosen.latest if split is Part.LATEST else chosen.forecasts)
    if chosen.experiment.model.family == "candles":
        from flashtrader.cli.candle_forecasts import predict_candles

        answers = answer_run(chosen, data_dir, split.value)
        return predict_candles(answers, split, path, request, as_json)
    if chosen.experiment.data.kind == "books":
        from flashtrader.cli.book_forecasts import show_directions

        answers = answer_run(chosen, data_dir, split.value)
        return show_directions(answers, split.value, path, as_json)
    made = forecast_run(chosen, data_dir, split.value)
    if path == chosen.forecasts:
        keep_forecasts(made)
    else:
        write_forecasts(path, made.forecasts)
    if made.run.experiment.policy.kind == "weights":
        from flashtrader.cli.weight_tables import show_weights

        return show_weights(made, split.value, path, as_json)
    from flashtrader.cli.assessment_tables import skill_table
    from flashtrader.cli.member_tables import forecast_tables
    from flashtrader.cli.plain_tables import score_tables
    from flashtrader.forecasting.skill import measure_skill

    table, payload, notes = describe(made, split, path)
    skill = measure_skill(made.forecasts, made.outcomes, made.horizon_bars)
    payload["skill"] = asdict(skill)
    worth = [skill_table(skill)] if skill.bars else []
    models, of_models = forecast_tables(made)
    payload["plain"] = {model: asdict(score) for model, score in made.mean_scores.items()} if made.plain else {}
    show([table, *worth, *models, *score_tables(made)], payload | of_models, as_json, notes)
    return None


def _follow(
    run: "Run", data_dir: Path, base_url: str | None, num_bars: int | None, out: Path | None, as_json: bool
) -> None:
    import json
    import time

    import pandas as pd

    from flashtrader.errors import ConfigError
    from flashtrader.files import finite
    from flashtrader.forecasting.follow import Follower, seconds_to_next_close
    from flashtrader.forecasting.forecast import write_forecasts
    from flashtrader.interval import Interval
    from flashtrader.market.fetch import fetch
    from flashtrader.market.sources.opening import open_source
    from flashtrader.market.store import Store

    data = run.experiment.data
    if data.kind == "books":
        raise ConfigError(
            f"{run.path}: --follow reads bars as they close, and this run reads an order book; leave it out"
        )
    interval, store = Interval(data.interval), Store(data_dir)
    source = None if data.source == "file" else open_source(data, base_url=base_url)
    follower = Follower(run, data_dir)
    followed: list[pd.DataFrame] = []
    while True:
        if source is not None:
            for report in fetch(source, store, data.symbols, interval):
                if report.failed is not None:
                    say(f"{report.failed}; trying again")
        update = follower.update()
        for moment, row in update.iterrows():
            time_text = f"{moment:%Y-%m-%dT%H:%MZ}"
            if as_json:
                typer.echo(json.dumps(finite({"time": time_text, "forecasts": row.to_dict()}), allow_nan=False))
            else:
                typer.echo(f"{time_text}  " + "  ".join(f"{symbol} {value:+.3%}" for symbol, value in row.items()))
        if len(update):
            followed.append(update)
            write_forecasts(out or run.path / "live.parquet", pd.concat(followed))
        if num_bars is not None and sum(map(len, followed)) >= num_bars:
            return
        time.sleep(seconds_to_next_close(interval, time.time_ns() // 1_000_000))


def beside(path: Path, name: str) -> Path:
    """Return where another file of the same forecasts goes: beside a latest.parquet, `latest_` begins its name, too."""
    return path.with_name(f"latest_{name}" if path.stem == "latest" else name)


def describe(made: "Forecasts", split: Part, path: Path) -> tuple[Table, dict[str, Any], list[str]]:
    """Return the table of scores, what `--json` says, and the notes below."""
    from flashtrader.report.formats import counted, estimate, fixed, percent

    newest = made.forecasts.iloc[-1]
    scores = made.scores
    rows = [
        (
            score.symbol,
            f"{score.bars:,}",
            estimate(score.ic, score.ic_error, 3),
            fixed(score.rank_ic, 3, signed=True),
            fixed(score.r2, 3, signed=True),
            percent(score.direction),
            percent(newest[score.symbol], 3, signed=True),
        )
        for score in scores
    ]
    columns = ("symbol", "bars", "IC, 95 %", "rank IC", "R²", "direction", "newest")
    payload = {
        "run": str(made.run.path),
        "split": split.value,
        "forecasts": str(path),
        "bars": len(made.forecasts),
        "first": made.forecasts.index[0].isoformat(),
        "last": made.forecasts.index[-1].isoformat(),
        "horizon_bars": made.horizon_bars,
        "newest": newest.to_dict(),
        "scores": [asdict(score) for score in scores],
    }
    times = made.forecasts.index
    notes = [
        f"{counted(len(times), 'bar')}, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC, "
        f"log return over {counted(made.horizon_bars, 'bar')}: {path}",
        "R² is against forecasting no change; the interval of the IC allows for overlapping horizons.",
    ]
    if split is Part.ALL:
        notes.append("The bars that the model was trained on are among them: these scores are no test of it.")
    return Table(f"Forecasts of {made.run.path}", columns, rows), payload, notes
