"""A trained order-book run and snapshots → probabilities of down, flat and up, and their scores."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from flashtrader.arrays import Floats
from flashtrader.forecasting.book_scores import (
    DIRECTIONS,
    DirectionScore,
    commonest_answers,
    imbalance_answers,
    persistent_answers,
    score_answers,
    trade_returns,
)
from flashtrader.forecasting.forecast import Answers
from flashtrader.models.orderbook import direction_probabilities
from flashtrader.panel.books import mid_moves_bps, quotes
from flashtrader.panel.splits import split_at

PROBABILITIES = tuple(f"p_{direction}" for direction in DIRECTIONS)


@dataclass(frozen=True, eq=False)
class DirectionForecasts:
    """What an order-book run forecast, snapshot by snapshot."""

    directions: pd.DataFrame
    """Index `time` (the snapshot's, UTC); p_down, p_flat, p_up, NaN where there is no forecast; outcome −1, 0 or 1, NaN
    while unknown. Training balances the classes, and these are probabilities as if each were as common."""
    moves_bps: Floats
    """(T,) of the mid over the horizon; NaN while unknown."""
    scores: list[DirectionScore]
    """The model's, then those of plain answers on the same snapshots. What has to be fitted is left out where the
    stored snapshots hold none of the training part."""


def forecast_directions(answers: Answers) -> DirectionForecasts:
    """Return the directions in a model's answers, scored where their outcome is known."""
    experiment, panel = answers.run.experiment, answers.loaded.panel
    (book,) = answers.loaded.tables.values()
    horizon = experiment.panel.target.horizon_bars
    rows = slice(answers.rows.start, answers.rows.stop)
    probability_TP = direction_probabilities(torch.from_numpy(answers.outputs_RKP))[:, 0].double().numpy()

    best, starts, outcomes_T = quotes(book), panel.run_starts, panel.targets[:, 0].astype(np.float64)
    sources = {"persistence": persistent_answers(outcomes_T, starts, horizon)}
    train = split_at(panel, answers.run.read_manifest().split).train
    if np.isfinite(outcomes_T[train.start : train.stop]).any():
        sources["majority"] = commonest_answers(outcomes_T, train)
        sources["imbalance"] = imbalance_answers(book, outcomes_T, starts, train)

    times = pd.to_datetime(panel.timestamps[rows], unit="ms", utc=True).rename("time")
    directions = pd.DataFrame(probability_TP, index=times, columns=list(PROBABILITIES))
    return DirectionForecasts(
        directions=directions.assign(outcome=outcomes_T[rows]),
        moves_bps=mid_moves_bps(best.mid, starts, horizon)[rows],
        scores=score_answers(
            {"model": likeliest(probability_TP), **{name: answer_T[rows] for name, answer_T in sources.items()}},
            outcomes_T[rows],
            trade_returns(best, starts, horizon).at(rows),
            horizon,
        ),
    )


def likeliest(probability_TP: Floats) -> Floats:
    """Return the likeliest direction (T,) of down, flat and up; NaN where there is no forecast."""
    return np.where(np.isfinite(probability_TP).all(axis=1), probability_TP.argmax(axis=1) - 1.0, np.nan)
