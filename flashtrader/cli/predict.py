"""`flashtrader predict`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashtrader.cli.console import AsJson, DataDir, RunName, RunsDir


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
        from flashtrader.cli.follow_forecasts import follow_bars

        return follow_bars(chosen, data_dir, base_url, num_bars, out, as_json)
    path = out or (chosen.latest if split is Part.LATEST else chosen.forecasts)
    if chosen.experiment.model.family == "candles":
        from flashtrader.cli.candle_forecasts import predict_candles

        answers = answer_run(chosen, data_dir, split.value)
        return predict_candles(answers, split.value, path, request, as_json)
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
    from flashtrader.cli.return_forecasts import show_returns

    return show_returns(made, split.value, path, as_json)
