"""Plain models of log returns, which a transformer must beat: fitted at once, on the same rows, to the same targets.

persistence  no change: 0
drift        the asset's mean training return
momentum     the pace of the last `context_bars` bars: horizon / context · log(close[i] / close[i − context])
ridge        linear in the asset's features and in the mean of all assets' features, now and at a few lags
dlinear      linear in the trend of the last closes, and in what is left of them: DLinear-I of Zeng et al. (2023), Are
             Transformers Effective for Time Series Forecasting?, AAAI
boosting     scikit-learn's histogram gradient boosting on ridge's inputs, one for all assets

Ridge and DLinear choose their penalty, boosting its number of trees, on the validation rows. A model forecasts at every
row at which a transformer of the same experiment would, from that row and earlier ones. All but boosting are linear,
some with weights that nobody had to fit. Shapes: R rows, K targets, of which target k is asset k's, I inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrader.arrays import Floats
from flashtrader.config import Experiment, PlainFamily
from flashtrader.errors import TrainingError, first_line
from flashtrader.models.booster_file import booster_bytes, load_booster
from flashtrader.models.plain_inputs import CloseWindow, Inputs, LaggedFeatures
from flashtrader.models.plain_linear import NormalEquations, fit_ridge, smoothing
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.panel.closes import PricedPanel
from flashtrader.panel.features import expand_features
from flashtrader.panel.scaling import Scaler
from flashtrader.panel.splits import Rows, Split

Arrays = dict[str, NDArray[Any]]

_CHUNK_ROWS = 8_192
# The cost of a window of closes grows with the square of its length; Zeng et al. report DLinear with 336.
_MOST_WINDOW_BARS = 512
_MOST_BOOSTED_ROWS = 100_000
_MOST_TREES, _TREES_WITHOUT_GAIN = 200, 10
_TREES = {"learning_rate": 0.1, "max_leaf_nodes": 15, "min_samples_leaf": 100}
_SCALER = ("feature_mean", "feature_std", "target_std")


@dataclass(frozen=True, eq=False)
class History:
    """What plain models are fitted on."""

    experiment: Experiment
    priced: PricedPanel
    split: Split
    scaler: Scaler

    def usable(self, part: Rows) -> NDArray[np.bool_]:
        """Return whether each target has a forecast and is known at each row of a part (R, K)."""
        panel = self.priced.panel
        due_RK = panel.forecast_due(part.start, part.stop, self.experiment.warmup_bars)
        return due_RK & np.isfinite(panel.targets[part.start : part.stop])

    def examples(
        self, inputs: Inputs, part: Rows, asset: int, chosen_R: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Yield inputs (R, I) and targets (R,), in deviations, of the chosen rows of a part, in order."""
        for rows in _chunks(part):
            chosen = chosen_R[rows.start - part.start : rows.stop - part.start]
            if chosen.any():
                targets_R = self.priced.panel.targets[rows.start : rows.stop, asset] / self.scaler.target_std[asset]
                yield inputs(self.priced, rows, asset)[chosen], targets_R[chosen]


class PlainModel:
    """A fitted model: what it forecasts follows from family, experiment, and the arrays that its file holds."""

    def __init__(self, family: PlainFamily, experiment: Experiment, arrays: Arrays) -> None:
        self.family, self.experiment, self.arrays = family, experiment, arrays
        self._inputs = _inputs_of(family, experiment, Scaler(**{name: arrays[name] for name in _SCALER}))
        self._booster: Any = None
        self._check_shapes()
        if family == "boosting":
            self._booster = load_booster(arrays["booster"].tobytes(), self._inputs.width)

    def forecast(self, priced: PricedPanel, rows: Rows) -> NDArray[np.float32]:
        """Return the forecast log returns (R, K) at the close of each row.

        NaN in the warm-up of a run, and for an asset without its features.
        """
        due_RK = priced.panel.forecast_due(rows.start, rows.stop, self.experiment.warmup_bars)
        forecasts_RK = np.empty(due_RK.shape, np.float32)
        for chunk in _chunks(rows):
            for asset, target_std in enumerate(self.arrays["target_std"]):
                deviations_R = self._deviations(self._inputs(priced, chunk, asset), asset)
                forecasts_RK[chunk.start - rows.start : chunk.stop - rows.start, asset] = deviations_R * target_std
        return np.where(due_RK, forecasts_RK, np.float32(np.nan))

    def _check_shapes(self) -> None:
        """Raise ValueError unless the arrays are of the experiment's markets, features and inputs."""
        assets = len(self.experiment.data.symbols)
        features = (assets, len(expand_features(self.experiment.panel.features)))
        shapes = dict[str, tuple[int, ...]](feature_mean=features, feature_std=features, target_std=(assets,))
        if self.family != "boosting":
            shapes |= {"weights": (assets, self._inputs.width), "intercept": (assets,)}
        for name, shape in shapes.items():
            array = self.arrays[name]
            if array.shape != shape or array.dtype.kind != "f":
                raise ValueError(f"{name} has shape {array.shape} of {array.dtype}, not {shape} of numbers")

    def _deviations(self, inputs_RI: NDArray[np.floating], asset: int) -> Floats:
        """Return the asset's forecasts (R,) in standard deviations of its target."""
        if self._booster is not None:
            return np.asarray(self._booster.predict(inputs_RI), np.float64)
        # Not a BLAS product: its bits would depend on how many rows there are.
        weighted_R = np.einsum("ri,i->r", inputs_RI.astype(np.float64), self.arrays["weights"][asset])
        return np.asarray(weighted_R + self.arrays["intercept"][asset], np.float64)


def fit_plain(family: PlainFamily, history: History) -> PlainModel:
    """Return a plain model of this family, whatever the experiment's own is."""
    scaler = history.scaler
    inputs = _inputs_of(family, history.experiment, scaler)
    arrays = {name: getattr(scaler, name) for name in _SCALER} | _learned(family, history, inputs)
    return PlainModel(family, history.experiment, arrays)


def save_plain(path: Path, model: PlainModel) -> None:
    """Replace `path` by the model, in one step."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in model.arrays.items()}
    save_tensors(path, tensors, _facts(model.family, model.experiment))


def load_plain(path: Path, family: PlainFamily, experiment: Experiment) -> PlainModel:
    """Return the fitted model that `path` holds.

    Raises TrainingError when the file is missing, damaged, or of another model than the experiment says.
    """
    tensors, facts = load_tensors(path)
    if facts != _facts(family, experiment):
        raise TrainingError(
            f"{path}: the model does not fit the run's config.yaml; restore both from a copy, or train again"
        )
    try:
        return PlainModel(family, experiment, {name: tensor.numpy() for name, tensor in tensors.items()})
    except Exception as error:  # skops raises whatever the trees that it reads do
        reason = first_line(error).rstrip(".")
        raise TrainingError(f"{path}: the model can't be read here ({reason}); train the run again") from None


def _facts(family: PlainFamily, experiment: Experiment) -> dict[str, Any]:
    """Return what a file's arrays mean something with."""
    return {
        "family": family,
        "symbols": list(experiment.data.symbols),
        "features": list(expand_features(experiment.panel.features)),
        "horizon_bars": experiment.panel.target.horizon_bars,
        "context_bars": experiment.context_bars,
    }


def _inputs_of(family: PlainFamily, experiment: Experiment, scaler: Scaler) -> Inputs:
    context_bars = experiment.context_bars
    match family:
        case "persistence" | "drift":
            return CloseWindow(scaler.target_std, np.arange(0))
        case "momentum":
            return CloseWindow(scaler.target_std, np.array([context_bars]))
        case "dlinear":
            return CloseWindow(scaler.target_std, np.arange(min(context_bars, _MOST_WINDOW_BARS))[::-1])
        case "ridge" | "boosting":
            return LaggedFeatures(scaler, experiment.panel.clip, context_bars)


def _learned(family: PlainFamily, history: History, inputs: Inputs) -> Arrays:
    """Return what the training rows, and the validation rows where there is a choice, say of a model."""
    num_assets, train = len(history.priced.panel.symbols), history.split.train
    match family:
        case "persistence":
            return {"weights": np.zeros((num_assets, 0)), "intercept": np.zeros(num_assets)}
        case "drift":
            targets_TK = history.priced.panel.targets[train.start : train.stop]
            means_K = np.nanmean(targets_TK, axis=0, dtype=np.float64) / history.scaler.target_std
            return {"weights": np.zeros((num_assets, 0)), "intercept": means_K}
        case "momentum":
            pace = history.experiment.panel.target.horizon_bars / history.experiment.context_bars
            return {"weights": np.full((num_assets, 1), -pace), "intercept": np.zeros(num_assets)}
        case "ridge":
            return _regressions(history, inputs, np.eye(inputs.width))
        case "dlinear":
            trend_WW = smoothing(inputs.width)
            return _regressions(history, inputs, np.concatenate((trend_WW, np.eye(len(trend_WW)) - trend_WW)))
        case "boosting":
            return _boosted(history, inputs)


def _regressions(history: History, inputs: Inputs, parts_JI: Floats) -> Arrays:
    """Return each asset's ridge regression on J parts, each linear in the inputs, as weights of the inputs."""

    def equations(part: Rows, asset: int) -> NormalEquations:
        examples = history.examples(inputs, part, asset, history.usable(part)[:, asset])
        return NormalEquations.of(examples, parts_JI.shape[1]).mapped(parts_JI)

    split = history.split
    fits = [
        fit_ridge(equations(split.train, asset), equations(split.validation, asset))
        for asset in range(len(history.priced.panel.symbols))
    ]
    return {
        "weights": np.stack([fit.weights_I @ parts_JI for fit in fits]),
        "intercept": np.array([fit.intercept for fit in fits]),
        "penalty": np.array([fit.penalty for fit in fits]),
    }


def _boosted(history: History, inputs: Inputs) -> Arrays:
    """Return a booster of all assets' rows together, in deviations, as `booster_bytes` writes it."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    seed = history.experiment.training.seed
    train_RI, train_R = _drawn(history, inputs, history.split.train, seed)
    validation_RI, validation_R = _drawn(history, inputs, history.split.validation, seed)
    trial = HistGradientBoostingRegressor(
        **_TREES, max_iter=_MOST_TREES, early_stopping=True, n_iter_no_change=_TREES_WITHOUT_GAIN, random_state=seed
    ).fit(train_RI, train_R, X_val=validation_RI, y_val=validation_R)
    # Early stopping keeps the trees that brought no gain: grow the same ones again, up to the best.
    best = max(1, int(np.argmax(trial.validation_score_)))
    booster = HistGradientBoostingRegressor(**_TREES, max_iter=best, early_stopping=False, random_state=seed)
    booster.fit(train_RI, train_R)
    return {"booster": np.frombuffer(booster_bytes(booster), np.uint8)}


def _drawn(history: History, inputs: Inputs, part: Rows, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return inputs (N, I) and targets (N,) of all assets, no more than are boosted, drawn from the seed."""
    usable_RK = history.usable(part)
    if usable_RK.sum() > _MOST_BOOSTED_ROWS:
        drawn = np.random.default_rng(seed).choice(np.flatnonzero(usable_RK), _MOST_BOOSTED_ROWS, replace=False)
        usable_RK = np.zeros_like(usable_RK)
        usable_RK.flat[drawn] = True
    examples = [
        example
        for asset in range(usable_RK.shape[1])
        for example in history.examples(inputs, part, asset, usable_RK[:, asset])
    ]
    inputs_RI, targets_R = (np.concatenate(column) for column in zip(*examples, strict=True))
    return inputs_RI, targets_R


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(rows.start, rows.stop, _CHUNK_ROWS):
        yield Rows(start, min(start + _CHUNK_ROWS, rows.stop))
