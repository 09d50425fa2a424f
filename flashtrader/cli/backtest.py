"""`flashtrader backtest`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashtrader.cli.console import AsJson, ConfigPath, DataDir, Overrides, RunName, RunsDir, Table, say, show

if TYPE_CHECKING:
    from flashtrader.backtest.assessment import Assessment
    from flashtrader.backtest.result import BacktestResult
    from flashtrader.config import Experiment
    from flashtrader.run import Run

ForecastFile = Annotated[
    Path | None,
    typer.Option("--forecasts", help="Anyone's forecasts: `time` and a column per symbol.", show_default=False),
]
WeightFile = Annotated[
    Path | None,
    typer.Option("--weights", help="Anyone's target weights, in the same shape; no policy.", show_default=False),
]


def backtest(
    context: typer.Context,
    run: RunName = None,
    forecasts: ForecastFile = None,
    weights: WeightFile = None,
    config: ConfigPath = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write; else the run, or what is new in --runs-dir.", show_default=False),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put the backtests of several runs on one page.")] = False,
    compared: Annotated[
        list[str] | None, typer.Argument(help="With --compare: names or paths of runs.", metavar="RUN")
    ] = None,
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Trade a run's test forecasts, or anyone's forecasts or weights, and report what they would have earned.

    Policy and costs are the run's own; with --config or --set they are taken from there.

    With --compare nothing is traded: the backtests that runs have are put on one page, beside that of the first.
    """
    if compare or compared:
        from flashtrader.cli.comparisons import compare_backtests

        trading = {"--run": run, "--forecasts": forecasts, "--weights": weights, "--config": config, "--set": overrides}
        given = [option for option, value in trading.items() if value]
        compare_backtests(compared or [], runs_dir, out, as_json, asked=compare, trading=given)
        return

    from flashtrader.backtest.experiment import backtest_file, backtest_run
    from flashtrader.config import load_config
    from flashtrader.errors import ConfigError
    from flashtrader.run import Run, create_run, find_run

    if forecasts is not None and weights is not None:
        raise ConfigError("give --forecasts or --weights, not both")
    path = forecasts or weights
    if path is None:
        chosen = find_run(runs_dir, run)
        context.with_resource(chosen.alone())
        _refuse_books(chosen.experiment, str(chosen.path))
        if not chosen.forecasts.is_file():
            _forecast(chosen, data_dir)
        experiment = load_config(config or chosen.path / "config.yaml", overrides or [])
        made = backtest_run(chosen, experiment, data_dir)
        directory, manifest = out or chosen.path, chosen.manifest
    else:
        if config is None and run is None:
            raise ConfigError(f"{path}: give --config X.yaml, or --run R, to say on which bars and at what cost")
        source = config or find_run(runs_dir, run).path / "config.yaml"
        experiment = load_config(source, overrides or [])
        _refuse_books(experiment, str(source))
        made = backtest_file(path, experiment, data_dir, are_forecasts=forecasts is not None)
        directory, manifest = out or create_run(runs_dir, experiment).path, None

    from flashtrader.backtest.assessment import assess
    from flashtrader.backtest.outputs import write_backtest
    from flashtrader.backtest.trials import record_trial
    from flashtrader.report.tearsheet import write_report

    assessment = assess(
        made.result,
        record_trial(made.result, runs_dir),
        forecasts=made.forecasts,
        outcomes=made.outcomes,
        horizon_bars=experiment.panel.target.horizon_bars,
    )
    write_backtest(made.result, directory, experiment.model_dump(mode="json"), assessment)
    report = write_report(
        made.result,
        directory,
        title=Run(directory).name,
        experiment=experiment,
        manifest=manifest,
        forecasts=made.forecasts,
        outcomes=made.outcomes,
        assessment=assessment,
    )
    _show(made.result, assessment, directory, report, as_json)


def _refuse_books(experiment: "Experiment", where: str) -> None:
    """Raise ConfigError for an order book: its signals are closed a horizon later, and no bar is there to trade at."""
    from flashtrader.errors import ConfigError

    if experiment.data.kind == "books":
        raise ConfigError(
            f"{where}: a backtest trades bars, and this is an order book; what its signals earn after the spread is in "
            "the PnL table of `flashtrader predict`, and in direction_scores.json beside its forecasts"
        )


def _forecast(run: "Run", data_dir: Path) -> None:
    """Make the test forecasts that nobody has made yet, as `flashtrader predict` would."""
    from flashtrader.forecasting.forecast import forecast_run, keep_forecasts

    say(f"{run.path} has no forecasts yet: forecasting its test bars")
    keep_forecasts(forecast_run(run, data_dir, "test"))


def _show(result: "BacktestResult", assessment: "Assessment", directory: Path, report: Path, as_json: bool) -> None:
    from flashtrader.backtest.outputs import summary
    from flashtrader.cli.assessment_tables import assessment_tables
    from flashtrader.cli.cost_words import costs_in_words, funding_in_words
    from flashtrader.cli.plain_tables import backtest_tables
    from flashtrader.report.metric_names import METRIC_NAMES

    measured = [result.metrics, *(reference.metrics for reference in result.references.values())]
    rows = [(name.label, *(name.text(getattr(metrics, name.key)) for metrics in measured)) for name in METRIC_NAMES]
    columns = ("", "strategy", *(name.replace("_", " ") for name in result.references))
    config, time = result.config, result.time
    notes = [
        f"{len(time):,} bars, {time[0]:%Y-%m-%d %H:%M} to {time[-1]:%Y-%m-%d %H:%M} UTC; filled at "
        f"{'the next open' if config.fill == 'next_open' else 'the close'}; {costs_in_words(config)}; "
        f"{funding_in_words(config)}",
        *(f"beware: {doubt}" for doubt in (result.calendar_doubt, result.unfilled_doubt) if doubt),
        f"report: {report}",
    ]
    payload = {"directory": str(directory), "report": str(report)} | summary(result, assessment)
    table = Table(f"Backtest of {directory}", columns, rows)
    tables = [table, *backtest_tables(result), *assessment_tables(assessment)]
    show(tables, payload, as_json, notes, headline=assessment.verdict)
