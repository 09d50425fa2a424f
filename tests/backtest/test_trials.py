from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.metrics import simple_returns
from flashtrader.backtest.result import BacktestResult
from flashtrader.backtest.trials import record_trial
from flashtrader.errors import DataError
from results import made_result


def test_every_distinct_backtest_is_a_trial_and_the_same_one_again_is_none(tmp_path: Path) -> None:
    one, other = made_result(seed=1), made_result(seed=2)
    assert len(record_trial(one, tmp_path)) == 1
    assert len(record_trial(one, tmp_path)) == 1
    assert len(record_trial(other, tmp_path)) == 2
    trials = record_trial(made_result(seed=1), tmp_path)
    assert len(trials) == 2
    found = next(trial for trial in trials if np.array_equal(trial.returns, simple_returns(one.equity)))
    np.testing.assert_array_equal(found.timestamps, one.timestamps[:-1])


def test_a_change_of_costs_is_another_trial(tmp_path: Path) -> None:
    record_trial(made_result(), tmp_path)
    assert len(record_trial(made_result(fee_bps=9.0), tmp_path)) == 2


@pytest.mark.parametrize("initial_equity", [7.0, 12_345.67, 3e9])
def test_other_money_to_begin_with_is_no_other_trial(initial_equity: float, tmp_path: Path) -> None:
    record_trial(made_result(fee_bps=5.0), tmp_path)
    assert len(record_trial(made_result(fee_bps=5.0, initial_equity=initial_equity), tmp_path)) == 1


def test_only_the_same_markets_bars_and_time_compete(tmp_path: Path) -> None:
    later = pd.Timestamp("2025-01-01", tz="UTC")
    others: list[BacktestResult] = [
        made_result(symbols=("A", "B")),
        made_result(start=later),
        replace(made_result(seed=3), symbols=("B",)),
    ]
    for other in others:
        record_trial(other, tmp_path)
    assert len(record_trial(made_result(), tmp_path)) == 1
    assert len(list((tmp_path / "trials").iterdir())) == 4
    assert len(record_trial(made_result(seed=4, num_bars=40), tmp_path)) == 2


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    record_trial(made_result(), tmp_path)
    (path,) = (tmp_path / "trials").iterdir()
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError) as refused:
        record_trial(made_result(seed=2), tmp_path)
    assert str(refused.value) == (
        f"{path}: damaged (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a "
        "parquet file.); delete it, or choose another --runs-dir"
    )
