"""`flashtrader runs`."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashtrader.cli.console import AsJson, RunsDir, Table, UnusedDir, show
from flashtrader.report.formats import UNKNOWN
from flashtrader.report.metric_names import VERDICTS_AGE

if TYPE_CHECKING:
    from flashtrader.registry import RunSummary

app = typer.Typer(help="List the runs of a directory with their verdicts; compare some, show one or the best.")

_SHOWN_CHARACTERS = 80  # of a value in a comparison
_KEY = (
    "skill: of the best weights on the validation bars, by the family's own measure; Sharpe ratio and return: of the "
    "test bars, after costs; what a run came to in a sentence: flashtrader runs show RUN; "
    f"{VERDICTS_AGE}"
)


class Figure(StrEnum):
    """What runs can be ranked by; more is better."""

    SHARPE = "sharpe"
    TOTAL_RETURN = "total_return"
    ANNUAL_RETURN = "annual_return"
    SORTINO = "sortino"
    CALMAR = "calmar"
    IC = "ic"
    SKILL = "skill"


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a directory with their verdicts; compare some, show one or the best."""
    from flashtrader.errors import ConfigError
    from flashtrader.registry import list_runs

    if context.invoked_subcommand is not None:
        if runs_dir != Path("runs") or as_json:
            raise ConfigError(f"write options after the word: flashtrader runs {context.invoked_subcommand} …")
        return
    found = list_runs(runs_dir)
    columns = ("run", "model", "markets", "made", "skill", "Sharpe", "return", "came to")
    tables = [Table(f"Runs in {runs_dir}", columns, [_row(run) for run in found])] if found else []
    notes = [f"damaged: {run.damage}" for run in found if run.damage]
    notes.append(_KEY if found else f"no run in {runs_dir}; make one with `flashtrader train --config …`")
    show(tables, {"runs_dir": str(runs_dir), "runs": [_payload(run) for run in found]}, as_json, notes)


@app.command()
def best(
    by: Annotated[Figure, typer.Option("--by", help="Figure of the test part, or skill: of the validation.")] = (
        Figure.SHARPE
    ),
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show the run with the highest figure, its verdict, and what the choice is worth."""
    from flashtrader.errors import ConfigError
    from flashtrader.registry import list_runs

    found = [(figure, run) for run in list_runs(runs_dir) if (figure := run.figure(by.value)) is not None]
    if not found:
        todo = "train one" if by is Figure.SKILL else "make one with `flashtrader backtest`"
        raise ConfigError(f"no run in {runs_dir} has the figure {by.value}; {todo}")
    chosen = max(found, key=lambda pair: pair[0])[1]
    warnings = selection_warnings(chosen, by, [run for _, run in found])
    payload = _payload(chosen) | {"by": by.value, "chosen_from": len(found), "warnings": warnings}
    show([_facts_table(chosen)], payload, as_json, [*_sentences(chosen), *warnings])


@app.command(name="show")
def show_run(
    run: Annotated[str, typer.Argument(help="A run's name or path.")],
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show what is known of one run."""
    summary = _find(runs_dir, run)
    config = summary.experiment.model_dump(mode="json") if summary.experiment else None
    manifest = summary.manifest
    notes = [f"{symbol}: {extent}" for symbol, extent in manifest.extents.items()] if manifest else []
    notes += [f"made by: {manifest.command}"] if manifest else []
    notes += _sentences(summary)
    notes += [VERDICTS_AGE] if summary.backtest else []
    show([_facts_table(summary)], _payload(summary) | {"experiment": config}, as_json, notes)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Names or paths of two runs or more.")],
    data_dir: UnusedDir = Path("data"),  # noqa: ARG001
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show in what runs differ: config, data, versions and machine; and what each came to."""
    from flashtrader.errors import ConfigError, DataError
    from flashtrader.registry import flatten
    from flashtrader.report.metric_names import METRIC_NAMES

    if len(names) < 2:
        raise ConfigError("name two runs or more: flashtrader runs compare RUN RUN")
    found = [_find(runs_dir, name) for name in names]
    damaged = [run.damage for run in found if run.damage]
    if damaged:
        raise DataError("; ".join(damaged))
    differences = {
        "config": _differing(
            [flatten(run.experiment.model_dump(mode="json")) if run.experiment else {} for run in found]
        ),
        "data": _differing([run.manifest.extents if run.manifest else {} for run in found]),
        "machine": _differing([run.manifest.parts if run.manifest else {} for run in found]),
    }
    columns = ("", *(run.name for run in found))
    tables = [
        Table(f"Differs in {part}", columns, [(key, *map(_short, values)) for key, values in rows.items()])
        for part, rows in differences.items()
        if rows
    ]
    facts = [dict(_facts(run)) for run in found]
    rows = [(label, *(texts[label] for texts in facts)) for label in facts[0]]
    rows += [
        (name.label, *(UNKNOWN if (figure := run.figure(name.key)) is None else name.text(figure) for run in found))
        for name in METRIC_NAMES
        if any(run.figure(name.key) is not None for run in found)
    ]
    same = [part for part, values in differences.items() if not values]
    payload = {"runs": [_payload(run) for run in found], "differences": differences}
    notes = [f"no difference in {' or '.join(same)}"] if same else []
    notes += [sentence for run in found for sentence in _sentences(run)]
    notes += [VERDICTS_AGE] if any(run.backtest for run in found) else []
    show([*tables, Table("What they came to", columns, rows)], payload, as_json, notes)


def _find(runs_dir: Path, name: str) -> "RunSummary":
    from flashtrader.registry import summarise
    from flashtrader.run import find_run

    return summarise(find_run(runs_dir, name).path)


def _row(run: "RunSummary") -> tuple[str, ...]:
    from flashtrader.report.formats import fixed, percent

    return (
        run.name,
        run.experiment.model.family if run.experiment else UNKNOWN,
        _markets(run),
        f"{run.created:%Y-%m-%d}" if run.created else UNKNOWN,
        fixed(_number(run.figure("skill")), 3, signed=True),
        fixed(_number(run.figure("sharpe")), 2),
        percent(_number(run.figure("total_return")), signed=True),
        _came_to(run),
    )


def _came_to(run: "RunSummary") -> str:
    return run.backtest.finding.replace("_", " ") if run.backtest and not run.damage else run.status.value


def _markets(run: "RunSummary") -> str:
    if run.experiment is None:
        return UNKNOWN
    first, *others = run.experiment.data.symbols
    more = f" +{len(others)}" if others else ""
    return f"{first}{more} {'book' if run.experiment.data.kind == 'books' else run.experiment.data.interval}"


def _facts(run: "RunSummary") -> list[tuple[str, str]]:
    """Return what there is to tell of a run, before the figures of its backtest."""
    from flashtrader.report.formats import estimate, fixed, percent
    from flashtrader.report.metric_names import SKILL_LABELS

    outcome = run.manifest.training if run.manifest else None
    tested = run.backtest
    skill = SKILL_LABELS.get(outcome.skill, outcome.skill) if outcome else "skill"
    ic = tested.forecast.ic if tested and tested.forecast else None
    return [
        ("status", run.status.value),
        ("model", run.experiment.model.family if run.experiment else UNKNOWN),
        ("markets", _markets(run)),
        ("made", f"{run.created:%Y-%m-%d %H:%M}" if run.created else UNKNOWN),
        ("steps", f"{outcome.steps:,}" if outcome else UNKNOWN),
        ("validation loss", fixed(_number(outcome.validation_loss if outcome else None), 5)),
        ("validation skill", f"{skill} {fixed(_number(run.validation_skill), 4, signed=True)}" if outcome else UNKNOWN),
        ("tested", f"{tested.period.start:%Y-%m-%d} to {tested.period.end:%Y-%m-%d}" if tested else UNKNOWN),
        ("test IC, 95 %", estimate(_number(ic.value), _number(ic.error), 3) if ic else UNKNOWN),
        ("deflated Sharpe", percent(_number(tested.significance.deflated_sharpe)) if tested else UNKNOWN),
        ("trials until then", f"{tested.significance.trials:,}" if tested else UNKNOWN),
        ("verified", _verified(run)),
    ]


def _verified(run: "RunSummary") -> str:
    if run.verified is None:
        return "not yet"
    return f"{'passed' if run.verified.passed else 'failed'}, {run.verified.mode}"


def _facts_table(run: "RunSummary") -> Table:
    from flashtrader.report.metric_names import METRIC_NAMES

    rows = _facts(run)
    rows += [(name.label, name.text(figure)) for name in METRIC_NAMES if (figure := run.figure(name.key)) is not None]
    return Table(str(run.path), ("", "value"), rows)


def _sentences(run: "RunSummary") -> list[str]:
    """Return what to say of a run besides its figures: its verdict, or what is wrong with it."""
    if run.damage:
        return [f"damaged: {run.damage}"]
    told = [f"{run.name}: {run.backtest.verdict}"] if run.backtest else []
    caught = run.verified is not None and not run.verified.passed
    return (
        [*told, f"{run.name}: failed `flashtrader verify`; {run.path / 'verify.json'} says in what"] if caught else told
    )


def selection_warnings(chosen: "RunSummary", by: Figure, candidates: "Sequence[RunSummary]") -> list[str]:
    """Return what makes the best of several runs look better than it is."""
    from flashtrader.report.formats import counted, percent

    warnings = []
    if len(candidates) > 1:
        warnings.append(
            f"beware: this is the highest {by.value.replace('_', ' ')} of {len(candidates)} runs. The choice itself "
            "makes it higher than what is to be expected of it; only bars that no run has seen can tell"
        )
    if len({_markets(run) for run in candidates}) > 1:
        warnings.append("beware: the runs are of different markets or intervals, and so of different times")
    if chosen.backtest is not None:
        significance = chosen.backtest.significance
        warnings.append(
            f"deflated Sharpe ratio {percent(_number(significance.deflated_sharpe))}: how probable it is, counting "
            f"{counted(significance.trials, 'trial')} until its backtest, that the true ratio is above what chance "
            "shows in the best of them"
        )
    return warnings


def _differing(described: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys whose values are not the same in all, with the value of each."""
    keys = dict.fromkeys(key for one in described for key in one)
    values = {key: [one.get(key) for one in described] for key in keys if key != "name"}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _number(value: float | None) -> float:
    return nan if value is None else value


def _payload(run: "RunSummary") -> dict[str, Any]:
    manifest, tested, experiment = run.manifest, run.backtest, run.experiment
    return {
        "run": run.name,
        "path": str(run.path),
        "status": run.status.value,
        "damage": run.damage,
        "family": experiment.model.family if experiment else None,
        "symbols": list(experiment.data.symbols) if experiment else [],
        "interval": experiment.data.interval if experiment else None,
        "created": run.created.isoformat() if run.created else None,
        "training": manifest.training.model_dump() if manifest and manifest.training else None,
        "metrics": dict(tested.metrics) if tested else None,
        "ic": run.figure("ic"),
        "deflated_sharpe": tested.significance.deflated_sharpe if tested else None,
        "trials": tested.significance.trials if tested else None,
        "finding": tested.finding if tested else None,
        "verdict": tested.verdict if tested else None,
        "verified": run.verified.passed if run.verified else None,
    }
