"""Versions of the pipeline with a known leak: an attack that lets one of them pass is worth nothing.

Each mutant puts a leaky function in the place of one of the pipeline's, for as long as one attack lasts, in this
process alone. It is caught when a check of that attack fails that passes without it, and not for being void.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, reduce
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.backtest.prices import FillPrices
from flashtrader.config import Experiment
from flashtrader.interval import Interval
from flashtrader.market.sources import Page, Span
from flashtrader.panel.features import History
from flashtrader.panel.loading import LoadedPanel
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows, Split
from flashtrader.run import Run
from flashtrader.training.walk_forward import Fold
from flashtrader.verification.checks import Attack, Check, Subject, told
from flashtrader.verification.families import nature_of
from flashtrader.verification.histories import clock_of
from flashtrader.verification.leaks import fill_noise, future_noise, past_noise
from flashtrader.verification.open_bar import open_bar
from flashtrader.verification.training_leaks import training_noise, walk_forward_noise

Leaky = Callable[[Any], Callable[..., Any]]
"""From a function of the pipeline to one that leaks."""

_MEANS_OF_WINDOWS = ("volatility_", "range_", "volume_ratio_", "price_ratio_", "rsi_mean_")


@dataclass(frozen=True)
class Mutant:
    """A known leak, and the attack that must notice it."""

    name: str
    attack: Attack
    swaps: Mapping[str, Leaky]
    """Of each function to replace, `module:name`, or `module:Class.name`."""
    missing: Callable[[Experiment], str] = lambda _: ""
    """Why an experiment can't have this leak; empty where it can."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run the pipeline with the leak."""
        with ExitStack() as stack:
            for target, leaky in self.swaps.items():
                module, _, path = target.partition(":")
                *owners, name = path.split(".")
                owner = reduce(getattr, owners, import_module(module))
                stack.enter_context(patch.object(owner, name, leaky(getattr(owner, name))))
            yield


def mutants(subject: Subject) -> Iterator[Check]:
    """Attack the pipeline with each known leak; each must be caught."""
    passing = cache(lambda attack: frozenset(check.name for check in attack(subject) if check.outcome == "passed"))
    for mutant in MUTANTS:
        attack = mutant.attack.__name__.replace("_", " ")
        name, tried = f"mutant: {mutant.name}", f"built this leak into the pipeline, and attacked it with {attack}"
        missing = mutant.missing(subject.experiment)
        if missing:
            yield Check(name, tried, "skipped", missing)
            continue
        try:
            sound = passing(mutant.attack)
            with mutant.at_work():
                checks = _until_caught(mutant.attack(subject), sound)
        except Exception as error:
            yield Check(name, tried, "failed", f"broke off, and was not caught: {told(error)}")
            continue
        if _catches(checks[-1], sound):
            yield Check(name, tried, "passed", figures={"caught_by": checks[-1].name, "because": checks[-1].reason})
        elif all(check.outcome == "skipped" for check in checks):
            yield Check(name, tried, "skipped", checks[-1].reason)
        else:
            yield Check(name, tried, "failed", "survived: no check noticed the leak, so passing them means nothing")


def _until_caught(attack: Iterator[Check], sound: Set[str]) -> list[Check]:
    """Return the checks of an attack, up to the first that catches the leak."""
    checks: list[Check] = []
    for check in attack:
        checks.append(check)
        if _catches(check, sound):
            break
    return checks


def _catches(check: Check, sound: Set[str]) -> bool:
    """Return whether a check fails because of the leak; `sound` names those that pass without it."""
    return check.failed and not check.void and check.name in sound


def _next_bar_feature(panel_of: Any) -> Callable[..., Panel]:
    def leaky(*arguments: Any) -> Panel:
        panel: Panel = panel_of(*arguments)
        values = panel.values.copy()
        values[:-1, :, 0] = panel.values[1:, :, 0]
        return replace(panel, values=values)

    return leaky


def _target_as_feature(panel_of: Any) -> Callable[..., Panel]:
    def leaky(*arguments: Any) -> Panel:
        panel: Panel = panel_of(*arguments)
        values = panel.values.copy()
        values[:, panel.target_entities, -1] = np.nan_to_num(panel.targets)
        return replace(panel, values=values)

    return leaky


def _filled_backwards(panel_of: Any) -> Callable[..., Panel]:
    def leaky(*arguments: Any) -> Panel:
        panel: Panel = panel_of(*arguments)
        values, mask = panel.values.copy(), panel.mask.copy()
        for entity in range(mask.shape[1]):
            known = np.flatnonzero(panel.mask[:, entity])
            following = np.searchsorted(known, np.arange(known[-1] + 1))
            values[: known[-1] + 1, entity] = panel.values[known[following], entity]
            mask[: known[-1] + 1, entity] = True
        return replace(panel, values=values, mask=mask)

    return leaky


def _joined_by_row(build_panel: Any) -> Callable[..., Panel]:
    """Put each market's newest bar into the newest row, the one before into the row before; the first stays first."""

    def leaky(bars: Mapping[str, pd.DataFrame], *arguments: Any) -> Panel:
        clock = clock_of(bars)
        aligned = {
            symbol: table.assign(timestamp=np.append(clock[:1], clock[len(clock) - len(table) + 1 :]))
            for symbol, table in bars.items()
        }
        panel: Panel = build_panel(aligned, *arguments)
        return panel

    return leaky


def _longer_candle_while_open(newest_closed: Any) -> Callable[..., NDArray[np.int64]]:
    def leaky(longer: History, to: Interval, *arguments: Any) -> NDArray[np.int64]:
        early = longer.bars.assign(timestamp=longer.bars["timestamp"] - to.milliseconds)
        newest: NDArray[np.int64] = newest_closed(replace(longer, bars=early), to, *arguments)
        return newest

    return leaky


def _centred(rolling_mean: Any) -> Callable[..., Floats]:
    def leaky(values: Floats, starts: NDArray[np.int64], unknown: int, window: int) -> Floats:
        return np.roll(rolling_mean(values, starts, unknown, window), -(window // 2))

    return leaky


def _one_row_early(answers: Any) -> Callable[..., NDArray[np.float32]]:
    def leaky(*arguments: Any) -> NDArray[np.float32]:
        return np.roll(answers(*arguments), -1, axis=0)

    return leaky


def _scaled_by_all(load_panel: Any) -> Callable[..., LoadedPanel]:
    def leaky(*arguments: Any) -> LoadedPanel:
        loaded: LoadedPanel = load_panel(*arguments)
        panel = loaded.panel
        standard = (panel.values - panel.values.mean(axis=0)) / (panel.values.std(axis=0) + 1)
        return replace(loaded, panel=replace(panel, values=standard.astype(np.float32)))

    return leaky


def _ranked_among_all(policy_weights: Any) -> Callable[..., pd.DataFrame]:
    def leaky(forecasts: pd.DataFrame, *arguments: Any) -> pd.DataFrame:
        standard = (forecasts - forecasts.mean()) / forecasts.std()
        weights: pd.DataFrame = policy_weights(standard, *arguments)
        return weights

    return leaky


def _filled_a_bar_early(fill_prices: Any) -> Callable[..., FillPrices]:
    def leaky(*arguments: Any) -> FillPrices:
        prices: FillPrices = fill_prices(*arguments)
        return prices._replace(prices_TA=np.roll(prices.prices_TA, 1, axis=0))

    return leaky


def _filled_at_the_low(fill_prices: Any) -> Callable[..., FillPrices]:
    def leaky(bars: Mapping[str, pd.DataFrame], *arguments: Any) -> FillPrices:
        cheap = {symbol: table.assign(open=table["low"]) for symbol, table in bars.items()}
        prices: FillPrices = fill_prices(cheap, *arguments)
        return prices

    return leaky


def _fitted_on_all(fit_scaler: Any) -> Callable[..., Any]:
    return lambda panel, _: fit_scaler(panel, Rows(0, len(panel.timestamps)))


def _not_purged(split_by_time: Any) -> Callable[..., Split]:
    def leaky(*arguments: Any) -> Split:
        split: Split = split_by_time(*arguments)
        train = Rows(split.train.start, split.validation.start)
        return replace(split, train=train, validation=Rows(split.validation.start, split.test.start))

    return leaky


def _stopped_by_the_test(split_by_time: Any) -> Callable[..., Split]:
    def leaky(*arguments: Any) -> Split:
        split: Split = split_by_time(*arguments)
        return replace(split, validation=split.test)

    return leaky


def _newest_fold_forecasts_all(trained_folds: Any) -> Callable[..., tuple[Fold, ...]]:
    def leaky(run: Run) -> tuple[Fold, ...]:
        folds: tuple[Fold, ...] = trained_folds(run)
        return (replace(folds[-1], test_start_ms=folds[0].test_start_ms),)

    return leaky


def _rounded_up(_floor: Any) -> Callable[[Interval, int], int]:
    return lambda interval, time_ms: int(interval.close(np.array([time_ms]))[0])


def _all_of_a_page(add: Any) -> Callable[..., None]:
    def leaky(batch: Any, page: Page, within: Span) -> None:
        newest_ms = int(page.bars["timestamp"].iloc[-1])
        whole = Span(within.start_ms, max(within.end_ms, newest_ms + 1))
        add(batch, Page(page.bars, whole), whole)

    return leaky


def _needs_markets(experiment: Experiment) -> str:
    return "" if len(experiment.data.symbols) > 1 else "the run has one market, and nothing to join"


def _needs_longer_candles(experiment: Experiment) -> str:
    return "" if experiment.panel.multiscale else "the run reads no longer candle"


def _needs_windows(experiment: Experiment) -> str:
    bars = experiment.data.kind == "bars"
    means = any(name.startswith(_MEANS_OF_WINDOWS) for name in experiment.panel.features)
    return "" if bars and means else "the run has no feature with a mean over a window"


def _needs_bars(experiment: Experiment) -> str:
    return "" if experiment.data.kind == "bars" else "the run reads an order book, and trades no bars"


def _needs_next_open(experiment: Experiment) -> str:
    late = experiment.backtest.fill == "next_open"
    return _needs_bars(experiment) or ("" if late else "the run trades at a bar's close, after which it has no low")


def _needs_answers(experiment: Experiment) -> str:
    family = experiment.plain_family
    return "" if nature_of(family).bars else f"{family} answers the same at every bar"


def _needs_scaled_inputs(experiment: Experiment) -> str:
    family = experiment.plain_family
    return "" if nature_of(family).features else f"{family} reads no feature"


def _needs_changing_weights(experiment: Experiment) -> str:
    return _needs_bars(experiment) or _needs_answers(experiment)


MUTANTS = (
    Mutant("a feature of the next bar", future_noise, {"flashtrader.panel.loading:panel_of": _next_bar_feature}),
    Mutant("the target among the features", future_noise, {"flashtrader.panel.loading:panel_of": _target_as_feature}),
    Mutant("holes filled from the bar after", future_noise, {"flashtrader.panel.loading:panel_of": _filled_backwards}),
    Mutant(
        "markets joined by row number",
        future_noise,
        {"flashtrader.panel.loading:build_panel": _joined_by_row},
        _needs_markets,
    ),
    Mutant("a centred window", future_noise, {"flashtrader.panel.features:rolling_mean": _centred}, _needs_windows),
    Mutant(
        "a longer candle before its close",
        future_noise,
        {"flashtrader.panel.candles:_newest_closed": _longer_candle_while_open},
        _needs_longer_candles,
    ),
    Mutant(
        "answers that have seen the next bar",
        future_noise,
        {
            "flashtrader.forecasting.forecast:output_rows": _one_row_early,
            "flashtrader.models.plain:PlainModel.forecast": _one_row_early,
        },
        _needs_answers,
    ),
    Mutant(
        "inputs standardised over all that is forecast",
        future_noise,
        {"flashtrader.forecasting.forecast:load_panel": _scaled_by_all},
        _needs_scaled_inputs,
    ),
    Mutant(
        "forecasts standardised over the whole test",
        future_noise,
        {"flashtrader.backtest.experiment:policy_weights": _ranked_among_all},
        _needs_changing_weights,
    ),
    Mutant(
        "fills at the price of a bar ago",
        past_noise,
        {"flashtrader.backtest.result:fill_prices": _filled_a_bar_early},
        _needs_bars,
    ),
    Mutant(
        "fills at the low of the next bar",
        fill_noise,
        {"flashtrader.backtest.result:fill_prices": _filled_at_the_low},
        _needs_next_open,
    ),
    Mutant("a scaler fitted on everything", training_noise, {"flashtrader.training.data:fit_scaler": _fitted_on_all}),
    Mutant("a purge left out", training_noise, {"flashtrader.training.data:split_by_time": _not_purged}),
    Mutant(
        "the best weights chosen by the test part",
        training_noise,
        {"flashtrader.training.data:split_by_time": _stopped_by_the_test},
    ),
    Mutant(
        "bars forecast by a later fold",
        walk_forward_noise,
        {"flashtrader.forecasting.forecast:trained_folds": _newest_fold_forecasts_all},
    ),
    Mutant(
        "the open bar taken for closed", open_bar, {"flashtrader.interval:Interval.floor": _rounded_up}, _needs_bars
    ),
    Mutant(
        "the open bar kept with its page",
        open_bar,
        {"flashtrader.market.fetch:_Batch.add": _all_of_a_page},
        _needs_bars,
    ),
)
"""Every leak that the attacks are known to notice."""
