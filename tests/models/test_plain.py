from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from flashtrader.config import (
    PLAIN_FAMILIES,
    DataConfig,
    Experiment,
    LogReturnTarget,
    ModelConfig,
    PanelConfig,
    PlainFamily,
    SplitConfig,
    TrainingConfig,
)
from flashtrader.errors import TrainingError
from flashtrader.interval import Interval
from flashtrader.models import plain
from flashtrader.models.families import build_model
from flashtrader.models.plain import History, PlainModel, fit_plain, load_plain, save_plain
from flashtrader.models.plain_linear import PENALTIES, NormalEquations, smoothing
from flashtrader.models.stream import output_rows
from flashtrader.models.weights import load_tensors, save_tensors
from flashtrader.panel.closes import PricedPanel, price_panel
from flashtrader.panel.panel import build_panel
from flashtrader.panel.scaling import fit_scaler
from flashtrader.panel.splits import Rows, split_by_time
from panels import HOUR_MS, random_bars

NUM_BARS, HORIZON, CONTEXT = 900, 3, 12
HOURLY = Interval("60")
Bars = dict[str, pd.DataFrame]


def experiment(**model: Any) -> Experiment:
    return Experiment(
        data=DataConfig(source="file", symbols=("AAA", "BBB")),
        panel=PanelConfig(
            features=("log_return", "rsi_3"), target=LogReturnTarget(kind="log_return", horizon_bars=HORIZON)
        ),
        split=SplitConfig(validation=0.2, test=0.2),
        model=ModelConfig(**({"context_bars": CONTEXT, "width": 8, "layers": 1, "heads": 2} | model)),
        training=TrainingConfig(segment_bars=48, device="cpu"),
    )


def all_bars(num_bars: int = NUM_BARS) -> Bars:
    return {"AAA": random_bars(num_bars, 1), "BBB": random_bars(num_bars - 40, 2, first_hour=40)}


def moving(bars: pd.DataFrame, returns: np.ndarray) -> pd.DataFrame:
    """Return the bars with other log returns."""
    close = 100 * np.exp(np.cumsum(returns))
    open_ = np.append(100.0, close[:-1])
    return bars.assign(open=open_, close=close, high=np.maximum(open_, close), low=np.minimum(open_, close))


def priced(bars: Bars, settings: Experiment | None = None) -> PricedPanel:
    config = (settings or experiment()).panel
    return price_panel(build_panel(bars, HOURLY, config), bars, config.max_gap_bars)


def history(of: PricedPanel, settings: Experiment | None = None) -> History:
    settings = settings or experiment()
    split = split_by_time(of.panel, settings.split, settings.panel.target.horizon_bars)
    return History(settings, of, split, fit_scaler(of.panel, split.train))


@pytest.fixture(scope="module")
def known() -> History:
    return history(priced(all_bars()))


@pytest.fixture(scope="module", params=PLAIN_FAMILIES)
def model(request: pytest.FixtureRequest, known: History) -> PlainModel:
    return fit_plain(request.param, known)


def everything(of: PricedPanel) -> Rows:
    return Rows(0, len(of.panel.timestamps))


def same(one: PlainModel, other: PlainModel, of: PricedPanel) -> bool:
    """Tell whether two models forecast the same bits; a booster's file is not the same bytes twice."""
    rows = everything(of)
    return np.array_equal(one.forecast(of, rows), other.forecast(of, rows), equal_nan=True)


@pytest.mark.parametrize("cut", [500, 731, 899])
def test_what_comes_after_a_bar_changes_no_bit_of_its_forecast(model: PlainModel, known: History, cut: int) -> None:
    before = model.forecast(known.priced, everything(known.priced))[: cut + 1]
    assert np.isfinite(before[-1]).all()
    noisy, ended = {}, {}
    for seed, (symbol, bars) in enumerate(all_bars().items()):
        past = bars["timestamp"] <= cut * HOUR_MS
        ended[symbol] = bars[past]
        noise = random_bars(len(bars), 50 + seed, first_hour=int(bars["timestamp"].iloc[0]) // HOUR_MS)
        noisy[symbol] = bars.where(past, noise).astype(bars.dtypes)
    for changed in (priced(noisy), priced(ended)):
        np.testing.assert_array_equal(model.forecast(changed, everything(changed))[: cut + 1], before)
    alone = model.forecast(priced(ended), Rows(cut, cut + 1))
    np.testing.assert_array_equal(alone[0], before[-1])


def test_a_plain_model_forecasts_where_the_transformer_does(model: PlainModel) -> None:
    """Bars are missing: a few that features bridge, and an outage of one market and of both."""
    gaps = {"AAA": [*range(200, 202), *range(400, 420)], "BBB": [300, *range(400, 420), *range(600, 650)]}
    bars = {
        symbol: table[~(table["timestamp"] // HOUR_MS).isin(gaps[symbol])].reset_index(drop=True)
        for symbol, table in all_bars().items()
    }
    of = priced(bars)
    settings = model.experiment
    transformer = build_model(settings, history(of).scaler)
    answered = np.isfinite(output_rows(transformer, of.panel, everything(of), settings.warmup_bars)[..., 0])
    assert 0 < answered.sum() < answered.size - 100
    np.testing.assert_array_equal(np.isfinite(model.forecast(of, everything(of))), answered)


def test_a_forecast_knows_nothing_from_before_an_outage(model: PlainModel) -> None:
    """The bars after an outage alone get the forecasts that they get behind it."""
    bars = all_bars()
    behind = priced(
        {symbol: table[~table["timestamp"].between(400 * HOUR_MS, 449 * HOUR_MS)] for symbol, table in bars.items()}
    )
    resumed = {symbol: table[table["timestamp"] >= 450 * HOUR_MS] for symbol, table in bars.items()}
    alone = priced(resumed)
    among = model.forecast(behind, everything(behind))[-len(alone.panel.timestamps) :]
    np.testing.assert_array_equal(model.forecast(alone, everything(alone)), among)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
def test_nothing_is_learned_from_purged_rows_or_the_test_part(known: History, family: PlainFamily) -> None:
    panel, split = known.priced.panel, known.split
    targets = panel.targets.copy()
    targets[split.train.stop : split.validation.start] += 1.0
    targets[split.validation.stop :] -= 1.0
    values = panel.values.copy()
    values[split.test.start :] += 3.0
    log_close = known.priced.log_close.copy()
    log_close[split.test.start :] += 3.0
    changed = PricedPanel(replace(panel, values=values, targets=targets), log_close, known.priced.first_rows)
    assert same(fit_plain(family, history(changed)), fit_plain(family, known), known.priced)


def test_a_model_comes_back_from_its_file(tmp_path: Path, model: PlainModel, known: History) -> None:
    path = tmp_path / "model.safetensors"
    save_plain(path, model)
    loaded = load_plain(path, model.family, experiment())
    assert same(loaded, model, known.priced)

    with pytest.raises(TrainingError) as refused:
        load_plain(path, model.family, experiment(context_bars=CONTEXT - 1))
    assert (
        str(refused.value)
        == f"{path}: the model does not fit the run's config.yaml; restore both from a copy, or train again"
    )
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError) as refused:
        load_plain(path, model.family, experiment())
    assert str(refused.value) == (
        f"{path}: damaged checkpoint (its digest is wrong); restore it from a copy, or train again"
    )


def test_a_booster_that_is_none_is_not_run(tmp_path: Path, known: History) -> None:
    """What a file says that it is made of must be trees, whatever its digest."""
    import skops.io

    path = tmp_path / "model.safetensors"
    save_plain(path, fit_plain("boosting", known))
    tensors, facts = load_tensors(path)
    strange = skops.io.dumps([1.0])
    tensors["booster"] = torch.frombuffer(bytearray(strange), dtype=torch.uint8)
    save_tensors(path, tensors, facts)
    with pytest.raises(TrainingError) as refused:
        load_plain(path, "boosting", experiment())
    assert str(refused.value) == f"{path}: the model can't be read here (not a booster of numbers); train the run again"


def test_the_plainest_are_what_their_formulas_say(known: History) -> None:
    of, rows = known.priced, known.split.test
    persistence, drift, momentum = (
        fit_plain(family, known).forecast(of, rows) for family in ("persistence", "drift", "momentum")
    )
    assert (persistence == 0).all()
    train = known.split.train
    expected = np.nanmean(of.panel.targets[train.start : train.stop], axis=0)
    np.testing.assert_allclose(drift, np.broadcast_to(expected, drift.shape), rtol=1e-5)
    for asset, bars in enumerate(all_bars().values()):
        log_close = np.log(bars["close"].to_numpy())
        move = log_close[CONTEXT:] - log_close[:-CONTEXT]
        np.testing.assert_allclose(momentum[:, asset], move[-len(rows) :] * HORIZON / CONTEXT, rtol=1e-4, atol=1e-7)


def planted(rule: Callable[[np.ndarray, int], float]) -> History:
    """Return a history of two markets in which `rule` says each return's mean, the noise around it being as large."""
    bars = {}
    for seed, symbol in enumerate(("AAA", "BBB")):
        generator = np.random.default_rng(seed)
        returns = generator.normal(scale=0.01, size=4_000)
        for hour in range(20, len(returns)):
            returns[hour] += rule(returns, hour)
        bars[symbol] = moving(random_bars(4_000, seed), returns)
    settings = experiment()
    one_bar = settings.panel.model_copy(update={"target": LogReturnTarget(kind="log_return", horizon_bars=1)})
    settings = settings.model_copy(update={"panel": one_bar})
    return history(priced(bars, settings), settings)


def correlation(family: PlainFamily, found: History) -> float:
    rows = found.split.test
    forecast, outcome = fit_plain(family, found).forecast(found.priced, rows), found.priced.panel.targets
    both = np.isfinite(forecast) & np.isfinite(outcome[rows.start :])
    return float(np.corrcoef(forecast[both], outcome[rows.start :][both])[0, 1])


def test_linear_rules_are_found_by_the_linear_models() -> None:
    reversal = planted(lambda returns, hour: -0.5 * returns[hour - 1])
    assert correlation("ridge", reversal) > 0.35
    assert correlation("dlinear", reversal) > 0.35
    assert correlation("boosting", reversal) > 0.3
    echo = planted(lambda returns, hour: 0.7 * returns[hour - 8])
    assert correlation("dlinear", echo) > 0.4
    assert correlation("ridge", echo) < 0.25  # lag 7 is none of its lags


def test_what_is_not_linear_is_found_by_boosting_alone() -> None:
    threshold = planted(lambda returns, hour: 0.01 if abs(returns[hour - 1]) > 0.008 else -0.01)
    assert correlation("boosting", threshold) > 0.4
    assert correlation("ridge", threshold) < 0.25


def test_on_noise_the_penalty_is_strong_and_the_trees_are_few() -> None:
    noise = planted(lambda _returns, _hour: 0.0)
    for family in ("ridge", "dlinear", "boosting"):
        rows = noise.split.test
        forecast = fit_plain(family, noise).forecast(noise.priced, rows)
        assert forecast.std() < 0.2 * np.nanstd(noise.priced.panel.targets)


@pytest.mark.parametrize("penalty", [PENALTIES[0], 1.0, PENALTIES[-1]])
def test_normal_equations_in_chunks_are_scikit_learns_ridge(penalty: float) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(loc=0.5, size=(300, 5)) * [1, 2, 0.1, 1, 1]
    outcomes = inputs @ [1, -1, 3, 0, 0] + generator.normal(size=300) + 2
    equations = NormalEquations.of(((inputs[part], outcomes[part]) for part in (slice(0, 110), slice(110, 300))), 5)
    weights, intercept = equations.solve(penalty)
    theirs = Ridge(alpha=penalty * inputs.var(axis=0).mean() * 300).fit(inputs, outcomes)
    np.testing.assert_allclose(weights, theirs.coef_, rtol=1e-8, atol=1e-12)
    assert intercept == pytest.approx(theirs.intercept_)
    error = np.square(inputs @ weights + intercept - outcomes).mean()
    assert equations.mean_squared_error(weights, intercept) == pytest.approx(error)
    parts = generator.normal(size=(7, 5))
    of_parts = NormalEquations.of([(inputs @ parts.T, outcomes)], 7).solve(penalty)
    np.testing.assert_allclose(equations.mapped(parts).solve(penalty)[0], of_parts[0], rtol=1e-6)


def test_without_a_row_nothing_is_forecast_to_change() -> None:
    weights, intercept = NormalEquations.of([], 3).solve(1.0)
    assert not weights.any()
    assert intercept == 0


def test_smoothing_is_a_moving_average_whose_ends_are_repeated() -> None:
    window = np.random.default_rng(0).normal(size=60)
    padded = np.concatenate((np.repeat(window[0], 12), window, np.repeat(window[-1], 12)))
    np.testing.assert_allclose(smoothing(60) @ window, np.convolve(padded, np.ones(25) / 25, mode="valid"))
    np.testing.assert_allclose(smoothing(5).sum(axis=1), 1)


def test_boosting_draws_no_more_rows_than_it_may_and_the_same_for_a_seed(
    known: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_plain("boosting", known)
    monkeypatch.setattr(plain, "_MOST_BOOSTED_ROWS", 300)
    one, again = fit_plain("boosting", known), fit_plain("boosting", known)
    assert same(one, again, known.priced)
    assert not same(one, whole, known.priced)
    other_seed = TrainingConfig(segment_bars=48, seed=1)
    other = fit_plain(
        "boosting", replace(known, experiment=known.experiment.model_copy(update={"training": other_seed}))
    )
    assert not same(one, other, known.priced)
