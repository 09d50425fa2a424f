"""How good answers up, flat, down are, and what a signal earns after the spread: a model beside three plain answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flashtrader.arrays import Floats
from flashtrader.forecasting.scores import long_run_error
from flashtrader.market.books import Books
from flashtrader.panel.books import Quotes, shifted
from flashtrader.panel.splits import Rows

DIRECTIONS = {"down": -1, "flat": 0, "up": 1}

LAGS = (0, 1, 2, 5, 10)
"""Snapshots ago at which the plain classifier reads the imbalance."""
DEEP_LEVELS = 5
"""Levels of its second imbalance; the first is of the best level alone."""
LATENCY = 1
"""Snapshots between a decision and its order: what was decided on a snapshot can't trade in it."""


@dataclass(frozen=True)
class ClassScore:
    """Answers of one direction. Precision, recall and F1 are 0 where they would divide by none."""

    direction: str
    precision: float
    recall: float
    f1: float
    support: int
    """Snapshots whose outcome it was."""


@dataclass(frozen=True)
class SignalPnl:
    """Simple return of each up or down answer that was traded, in basis points, without fees.

    Bought at the ask, or sold at the bid, one snapshot after the decision, and closed a horizon later at the other
    side. Errors allow for holdings that overlap.
    """

    signals: int
    mean_bps: float
    error_bps: float
    mid_mean_bps: float
    """The same trades at the mid."""
    mid_error_bps: float


@dataclass(frozen=True)
class DirectionScore:
    """One source of answers over the snapshots that all sources answer and whose outcome is known."""

    name: str
    snapshots: int
    accuracy: float
    accuracy_error: float
    """Standard error that allows for overlapping horizons."""
    macro_f1: float
    classes: tuple[ClassScore, ...]
    """Down, flat, up."""
    confusion: tuple[tuple[int, ...], ...]
    """Snapshots by outcome (rows) and answer (columns): down, flat, up."""
    pnl: SignalPnl


@dataclass(frozen=True)
class Trades:
    """What buying or selling after each snapshot would earn, in basis points (T,); NaN where the run ends before."""

    long_bps: Floats
    short_bps: Floats
    mid_bps: Floats
    """Of a purchase at the mid; a sale earns the opposite."""

    def at(self, rows: slice) -> "Trades":
        """Return those of some rows."""
        return Trades(self.long_bps[rows], self.short_bps[rows], self.mid_bps[rows])


def trade_returns(quotes: Quotes, run_starts: NDArray[np.int64], horizon: int) -> Trades:
    """Return what a trade decided at each snapshot earns: in after `LATENCY` snapshots, out after `horizon` more."""

    def entry(price_T: Floats) -> Floats:
        return shifted(price_T, run_starts, LATENCY)

    def leave(price_T: Floats) -> Floats:
        return shifted(price_T, run_starts, LATENCY + horizon)

    return Trades(
        long_bps=1e4 * (leave(quotes.bid) / entry(quotes.ask) - 1),
        short_bps=1e4 * (1 - leave(quotes.ask) / entry(quotes.bid)),
        mid_bps=1e4 * (leave(quotes.mid) / entry(quotes.mid) - 1),
    )


def score_answers(
    answers: Mapping[str, Floats], outcomes_T: Floats, trades: Trades, horizon: int
) -> list[DirectionScore]:
    """Return the score of each source of answers, all on the same snapshots: those that every one answers.

    answers, outcomes: −1, 0, 1 or NaN of consecutive snapshots (T,), as `trades`.
    """
    known_T = np.isfinite(np.sum([outcomes_T, *answers.values()], axis=0))
    return [_score(name, answer_T, outcomes_T, known_T, trades, horizon) for name, answer_T in answers.items()]


def persistent_answers(outcomes_T: Floats, run_starts: NDArray[np.int64], horizon: int) -> Floats:
    """Return for every snapshot the direction of the move that ends with it: the newest that is known there."""
    return shifted(outcomes_T, run_starts, -horizon)


def commonest_answers(outcomes_T: Floats, train: Rows) -> Floats:
    """Return at every snapshot the direction that comes most often in the training rows; the lower of equals."""
    known = outcomes_T[train.start : train.stop]
    directions, counts = np.unique(known[np.isfinite(known)], return_counts=True)
    return np.full(len(outcomes_T), directions[counts.argmax()])


def imbalance_answers(book: Books, outcomes_T: Floats, run_starts: NDArray[np.int64], train: Rows) -> Floats:
    """Return the answers of a logistic regression on order imbalance, (bid size − ask size) / (their sum).

    Of the best level, as Gould & Bonart (2016, Queue Imbalance as a One-Tick-Ahead Price Predictor) fit it, and of the
    best `DEEP_LEVELS` together, at each of the `LAGS`; with balanced classes, on the training rows. NaN where a lag
    reaches before the run, and everywhere without training rows.
    """
    features_TF = np.stack(
        [shifted(imbalance_T, run_starts, -lag) for imbalance_T in _imbalances(book) for lag in LAGS], axis=1
    )
    known_T = np.isfinite(features_TF).all(axis=1)
    learn_T = known_T & np.isfinite(outcomes_T)
    learn_T[: train.start] = learn_T[train.stop :] = False
    answers_T = np.full(len(outcomes_T), np.nan)
    directions = np.unique(outcomes_T[learn_T])
    if len(directions) == 1:  # nothing to tell apart
        answers_T[known_T] = directions[0]
    elif len(directions) > 1 and known_T.any():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1_000))
        classifier.fit(features_TF[learn_T], outcomes_T[learn_T])
        answers_T[known_T] = classifier.predict(features_TF[known_T])
    return answers_T


def _imbalances(book: Books) -> list[Floats]:
    def size(side: str, levels: int) -> Floats:
        names = [f"{side}_size_{level}" for level in range(1, levels + 1) if f"{side}_size_{level}" in book]
        return np.asarray(book[names].to_numpy().sum(axis=1), dtype=np.float64)

    sizes = [(size("bid", levels), size("ask", levels)) for levels in (1, DEEP_LEVELS)]
    return [(bid - ask) / (bid + ask) for bid, ask in sizes]


def _score(
    name: str,
    answers_T: Floats,
    outcomes_T: Floats,
    known_T: NDArray[np.bool_],
    trades: Trades,
    horizon: int,
) -> DirectionScore:
    num_classes = len(DIRECTIONS)
    outcome, answer = ((values_T[known_T] + 1).astype(np.int64) for values_T in (outcomes_T, answers_T))
    confusion = np.bincount(num_classes * outcome + answer, minlength=num_classes**2).reshape(num_classes, num_classes)
    right, support, named = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = (
        parts / np.maximum(wholes, 1)
        for parts, wholes in ((right, named), (right, support), (2 * right, named + support))
    )
    accuracy, accuracy_error = _mean_and_error((answers_T == outcomes_T).astype(np.float64), known_T, horizon)
    return DirectionScore(
        name=name,
        snapshots=len(outcome),
        accuracy=accuracy,
        accuracy_error=accuracy_error,
        macro_f1=float(f1.mean()) if len(outcome) else math.nan,
        classes=tuple(
            ClassScore(direction, float(precision[row]), float(recall[row]), float(f1[row]), int(support[row]))
            for row, direction in enumerate(DIRECTIONS)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        pnl=_pnl(answers_T, known_T, trades, horizon),
    )


def _pnl(answers_T: Floats, known_T: NDArray[np.bool_], trades: Trades, horizon: int) -> SignalPnl:
    earned_T = np.where(answers_T > 0, trades.long_bps, trades.short_bps)
    at_mid_T = np.where(answers_T > 0, trades.mid_bps, -trades.mid_bps)
    traded_T = known_T & (answers_T != 0) & np.isfinite(earned_T)
    mean, error = _mean_and_error(earned_T, traded_T, horizon)
    mid_mean, mid_error = _mean_and_error(at_mid_T, traded_T, horizon)
    return SignalPnl(int(traded_T.sum()), mean, error, mid_mean, mid_error)


def _mean_and_error(values_T: Floats, chosen_T: NDArray[np.bool_], horizon: int) -> tuple[float, float]:
    """Return the mean of the chosen snapshots' values, and its error: two overlap that are fewer than a horizon apart.

    A mean of a random number of values is a ratio of two sums: its deviations, over all snapshots, are those of the
    chosen ones and 0 between them, so that a lag is counted in snapshots and not in signals. The lags go to twice the
    horizon, for the last of them hardly weigh.
    """
    if not chosen_T.any():
        return math.nan, math.nan
    mean = float(values_T[chosen_T].mean())
    deviation_T = np.where(chosen_T, values_T - mean, 0.0)
    return mean, long_run_error(deviation_T, lags=2 * horizon) / float(chosen_T.mean())
