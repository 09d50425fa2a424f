"""Attacks that train: on targets that mean nothing, on a market without a rule, and on one whose rule is known.

Each trains the run's own experiment anew, shrunk, through the functions that `train` and `predict` call, and measures
one thing: the information coefficient of what it then forecasts of test rows. That is the correlation over time of
forecast and outcome: of returns, of a candle's close, of learned weights with what they would have earned, and of
P(up) − P(down) with the direction.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student_t

import flashtrader.training.data
from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, DataError
from flashtrader.forecasting.forecast import Forecasts, forecast_run
from flashtrader.forecasting.scores import mean_score
from flashtrader.panel.loading import LoadedPanel, load_panel
from flashtrader.panel.splits import split_by_time
from flashtrader.training.loop import train_model
from flashtrader.verification.checks import Check, Figure, Subject
from flashtrader.verification.families import nature_of
from flashtrader.verification.histories import between, clock_of, store_tables, stored_tables
from flashtrader.verification.planted import Market, leaning_book, simulated_market, trending_market
from flashtrader.verification.shrunk import FULL, QUICK, REMEMBERING, Effort, remembering, rows_of, shrunk

LEVEL = 0.999
"""Of every interval: about one healthy run in a thousand fails an attack by chance, and a few more where horizons are
long, for the errors of outcomes that overlap come out somewhat small."""
SHARE_TO_FIND = 0.5
"""Of the best information coefficient there is; the whole interval of what was found must lie above it."""


@dataclass(frozen=True)
class Skill:
    """An information coefficient and its interval at `LEVEL`; NaN of forecasts that never vary."""

    ic: float
    low: float
    high: float

    @property
    def figures(self) -> dict[str, Figure]:
        """What to show of it."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()} | {"level": LEVEL}


def shuffled_targets(subject: Subject) -> Iterator[Check]:
    """Train on the run's own rows with targets of other times: what it forecasts must be no better than chance.

    The targets of the training rows, and those of the validation rows, are shifted in a circle, those of all markets
    together. So they keep their distribution, the overlap of their horizons and what the markets have in common, and
    lose nothing but their time. What a shift relates to the features by chance, real outcomes may bear out or belie far
    beyond the error of a sample, where there is much to forecast. So each shift is trained on twice, the second time on
    the opposite of its targets: what was learned changes its sign and cancels, and what was not learned stays.
    """
    effort = FULL if subject.full else QUICK
    experiment = shrunk(subject.experiment, effort)
    tried = f"trained on the run's own rows with targets of {effort.shuffles} other times, and with their opposites"
    check = Check("shuffled targets", tried, "passed")
    if not nature_of(experiment.plain_family).learns:
        yield replace(
            check, outcome="skipped", reason=f"{experiment.model.family} learns nothing from when targets are"
        )
        return
    try:
        data_dir = _newest_rows(subject, experiment, effort)
        made = [
            [_trained_on_shifted(subject, experiment, data_dir, seed, sign) for sign in (1, -1)]
            for seed in range(effort.shuffles)
        ]
    except (ConfigError, DataError) as error:
        yield replace(check, outcome="skipped", reason=f"the run's own rows do not suffice for it: {error}")
        return
    each = " ".join(f"{skill_of([[one.forecasts]], one).ic:+.3f}" for pair in made for one in pair)
    together = skill_of([[one.forecasts for one in pair] for pair in made], made[0][0])
    yield _must_be_gone(replace(check, figures={"ic_of_each": each}), together)


def noise_only_market(subject: Subject) -> Iterator[Check]:
    """Train on a market in which nothing can be forecast: what it forecasts must be no better than chance."""
    effort = FULL if subject.full else QUICK
    experiment = shrunk(subject.experiment, effort)
    rows, directory = rows_of(experiment, effort), subject.directory("noise")
    if experiment.data.kind == "books":
        market = leaning_book(experiment, directory, rows, noise_only=True)
        what = "snapshots of a book whose queues say nothing of where its mid goes"
    else:
        market = simulated_market(experiment, directory, rows, noise_only=True)
        what = "bars of the noise-only twin of the simulated exchange"
    made = _trained(subject, market.experiment, market.data_dir)
    yield _must_be_gone(
        Check("noise-only market", f"trained on {rows:,} {what}", "passed"), skill_of([[made.forecasts]], made)
    )


def planted_signal(subject: Subject) -> Iterator[Check]:
    """Train on a market whose rule is known: most of what can be forecast must be found."""
    family = subject.experiment.plain_family
    tried = "trained on a market whose rule is known"
    if not nature_of(family).learns:
        told = "is a rule of its own" if nature_of(family).bars else "answers one number"
        yield Check("planted signal", tried, "skipped", f"{family} {told} and finds none")
        return
    market, told = _market_with_a_rule(subject)
    made = _trained(subject, market.experiment, market.data_dir)
    found = skill_of([[made.forecasts]], made)
    best = skill_of([[market.best.reindex(made.forecasts.index).where(made.forecasts.notna())]], made).ic
    check = Check(
        "planted signal",
        f"{tried}: {told}",
        "passed",
        figures=found.figures | {"best_ic": best, "share_to_find": SHARE_TO_FIND},
    )
    if found.low > SHARE_TO_FIND * best:
        yield check
        return
    yield replace(
        check,
        outcome="failed",
        reason=f"of the best IC of {best:.3f}, {_interval(found)} was found, not surely more than "
        f"{SHARE_TO_FIND:.0%}: the way from bars to forecasts loses what is in the bars, or the family can't learn it",
    )


def skill_of(groups: Sequence[Sequence[pd.DataFrame]], made: Forecasts) -> Skill:
    """Return the mean coefficient of groups of forecasts; those of a group are one estimate together.

    made: whose outcomes they forecast. The variance of a sample of overlapping outcomes, which all share, and that of
    the mean over the groups add; Student's t has the degrees of freedom of Satterthwaite (1946), An Approximate
    Distribution of Estimates of Variance Components, where a sample has as many as horizons. Errors count twice the
    lags that overlap: cut at the last of them, they come out too small. Forecasts that never vary count as none.
    """
    lags = 2 * made.horizon_bars
    scores = [[mean_score(table, made.outcomes, lags) for table in group] for group in groups]
    known = [group for group in scores if all(math.isfinite(score.ic) for score in group)]
    if not known:
        return Skill(math.nan, math.nan, math.nan)
    horizons = int((made.outcomes.notna() & made.forecasts.notna()).any(axis=1).sum()) / made.horizon_bars
    variances = [(float(np.mean([score.ic_error**2 for group in known for score in group])), max(1.0, horizons - 1))]
    coefficients = np.array([np.mean([score.ic for score in group]) for group in known])
    if len(known) > 1:
        variances.append((float(coefficients.var(ddof=1)) / len(known), len(known) - 1))
    variance = sum(value for value, _ in variances)
    freedom = variance**2 / sum(value**2 / degrees for value, degrees in variances) if variance else 1.0
    reach = float(student_t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    ic = float(coefficients.mean())
    return Skill(ic, ic - reach, ic + reach)


def _must_be_gone(check: Check, skill: Skill) -> Check:
    """Return the check with its outcome: failed where the interval leaves 0 out."""
    check = replace(check, figures=skill.figures | dict(check.figures))
    if not (skill.low > 0 or skill.high < 0):
        return check
    return replace(
        check,
        outcome="failed",
        reason=f"the IC of the test rows is {_interval(skill)}, and there was nothing to learn: forecasts or scores "
        "know of outcomes that they must not know",
    )


def _interval(skill: Skill) -> str:
    return f"{skill.ic:+.3f} ({LEVEL:.1%} interval {skill.low:+.3f} to {skill.high:+.3f})"


def _market_with_a_rule(subject: Subject) -> tuple[Market, str]:
    """Return a market, and its rule in words.

    A full attack takes the simulated exchange as it is, where a transformer forecasts over a horizon: bar by bar its
    rule is worth an IC of 0.07, and no plain model remembers the announcement, so these get more of the short rule.
    """
    experiment, directory = subject.experiment, subject.directory("planted")
    if subject.full and experiment.panel.target.kind == "log_return" and experiment.plain_family is None:
        market = simulated_market(remembering(experiment), directory, REMEMBERING.rows, noise_only=False)
        return market, "the simulated exchange, where an announcement is paid back 256 to 320 bars later"
    effort = FULL if subject.full else QUICK
    experiment = shrunk(experiment, effort)
    rows = rows_of(experiment, effort)
    if experiment.data.kind == "books":
        return leaning_book(experiment, directory, rows, noise_only=False), "a book whose mid follows the larger queue"
    return trending_market(experiment, directory, rows), "bars whose newest return goes on"


def _newest_rows(subject: Subject, experiment: Experiment, effort: Effort) -> Path:
    """Return a store with the newest rows of the run's own period, no more than an effort asks for."""
    data = subject.experiment.data.model_copy(
        update={"symbols": experiment.data.symbols, "levels": experiment.data.levels}
    )
    tables = stored_tables(data, subject.data_dir)
    clock = clock_of(tables)[-rows_of(experiment, effort) :]
    directory = subject.directory("own-rows")
    store_tables(data, between(tables, int(clock[0]), int(clock[-1])), directory)
    return directory


def _trained_on_shifted(subject: Subject, experiment: Experiment, data_dir: Path, seed: int, sign: int) -> Forecasts:
    """Train on targets of other times, or their opposites; forecast the test rows, beside their real outcomes."""

    def load_shifted(experiment: Experiment, data_dir: Path) -> LoadedPanel:
        loaded = load_panel(experiment, data_dir)
        split = split_by_time(loaded.panel, experiment.split, experiment.reach_bars)
        targets_TK, generator = loaded.panel.targets.copy(), np.random.default_rng([13, seed])
        for part in (split.train, split.validation):
            rows = slice(part.start, part.stop)
            targets_TK[rows] = sign * np.roll(
                targets_TK[rows], round(generator.uniform(0.25, 0.75) * len(part)), axis=0
            )
        return replace(loaded, panel=replace(loaded.panel, targets=targets_TK))

    with mock.patch.object(flashtrader.training.data, "load_panel", load_shifted):
        return _trained(subject, experiment, data_dir)


def _trained(subject: Subject, experiment: Experiment, data_dir: Path) -> Forecasts:
    """Train, and forecast the test rows, as a user would; on one thread, for more would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = train_model(experiment, data_dir, subject.directory("runs"), lambda _: None).run
        return forecast_run(run, data_dir)
    finally:
        torch.set_num_threads(threads)
