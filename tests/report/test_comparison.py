"""Runs beside each other: over the bars that they share, with what differs told."""

import json

import numpy as np
import pandas as pd
import pytest

from flashtrader.backtest.metrics import sharpe, simple_returns
from flashtrader.errors import ConfigError, DataError
from flashtrader.report.comparison import compare_runs, read_traded, write_comparison
from flashtrader.report.metric_names import METRIC_NAMES
from flashtrader.run import Run

HOUR_MS = 3_600_000
START_MS = 1_640_995_200_000


def _run(place, name, equity, *, first=0, interval="60", experiment=None):
    """Return a run with a backtest of the given equity, whose first bar is number `first`."""
    path = place / name
    path.mkdir()
    time = pd.to_datetime(START_MS + (first + np.arange(len(equity))) * HOUR_MS, unit="ms", utc=True).rename("time")
    pd.DataFrame({"equity": equity}, index=time).to_parquet(path / "equity.parquet")
    told = {
        "verdict": f"Verdict of {name}.",
        "metrics": {metric.key: 0.125 for metric in METRIC_NAMES} | {"sortino": None},
        "period": {"interval": interval, "calendar": "24/7"},
        "experiment": experiment or {"policy": {"scale": 10.0}},
    }
    (path / "backtest.json").write_text(json.dumps(told))
    return Run(path)


def _walk(num_bars, seed, drift=0.0):
    return 1e5 * np.exp(np.cumsum(np.random.default_rng(seed).normal(drift, 0.01, num_bars)))


def test_runs_are_compared_over_the_bars_that_all_have(tmp_path):
    equity = _walk(400, 0)
    runs = [_run(tmp_path, "a", equity), _run(tmp_path, "b", equity[100:300] * 3, first=100)]
    comparison = compare_runs(list(map(read_traded, runs)))
    assert comparison.timestamps.tolist() == (START_MS + np.arange(100, 300) * HOUR_MS).tolist()
    first, second = comparison.common
    # The same returns, whatever the account's size: no difference at all, and none in any draw.
    assert second.total_return == pytest.approx(first.total_return)
    assert second.difference == pytest.approx(0, abs=1e-9)
    assert second.difference_interval == pytest.approx((0, 0), abs=1e-6)
    assert first.sharpe == pytest.approx(sharpe(simple_returns(equity[100:300]), 8_760))
    assert first.difference is None


def test_a_difference_is_paired(tmp_path):
    """Two curves that move together differ far more surely than two that do not, at the same mean and deviation."""
    steps = np.random.default_rng(0).normal(0, 0.01, 3_000)
    apart = np.random.default_rng(1).normal(0, 0.01, 3_000)
    above = steps + 0.0005
    alike = above * np.std(apart) / np.std(above)
    curves = {"a": steps, "together": above, "apart": apart - apart.mean() + alike.mean()}
    runs = [read_traded(_run(tmp_path, name, 1e5 * np.exp(np.cumsum(curve)))) for name, curve in curves.items()]
    _, together, alone = compare_runs(runs).common
    width = [high - low for low, high in (together.difference_interval, alone.difference_interval)]
    assert together.difference_interval[0] > 0
    assert width[0] < width[1] / 4


def test_the_page_tells_verdicts_figures_and_what_differs(tmp_path):
    runs = [
        _run(tmp_path, "a", _walk(100, 0), experiment={"policy": {"scale": 10.0, "kind": "tanh"}, "seed": 0}),
        _run(tmp_path, "b", _walk(100, 1), experiment={"policy": {"scale": 20.0, "kind": "tanh"}, "seed": 0}),
    ]
    comparison = compare_runs(list(map(read_traded, runs)))
    write_comparison(comparison, tmp_path / "one.html")
    write_comparison(comparison, tmp_path / "two.html")
    text = (tmp_path / "one.html").read_text("utf-8")
    assert text == (tmp_path / "two.html").read_text("utf-8")
    assert '<dt>b</dt><dd class="verdict">Verdict of b.</dd>' in text
    assert "later ones are not in it.</p>" in text
    assert '<tr><th scope="row">policy.scale</th><td>10.0</td><td>20.0</td></tr>' in text
    assert "policy.kind" not in text
    assert '<th scope="row">seed</th>' not in text
    for name in METRIC_NAMES:
        told = "n/a" if name.key == "sortino" else name.text(0.125)
        assert f'<tr><th scope="row">{name.label}</th><td>{told}</td><td>{told}</td></tr>' in text
    for row in comparison.rows():
        assert "".join(f"<td>{cell}</td>" for cell in row[1:]) in text


def test_names_and_verdicts_are_escaped(tmp_path):
    evil = "<script>alert('&\"')<"
    told = _run(tmp_path, "a", _walk(50, 0), experiment={evil: {"key": evil}})
    text = (told.path / "backtest.json").read_text().replace("Verdict of a.", "</script><script>x")
    (told.path / "backtest.json").write_text(text)
    runs = [read_traded(told), read_traded(_run(tmp_path, evil, _walk(50, 1)))]
    write_comparison(compare_runs(runs), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<script>") == 2
    assert page.count("<script") == 4


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        ([{"name": "a"}], ConfigError, "--compare: give two runs or more"),
        (
            [{"name": "a"}, {"name": "b", "first": 50}],
            DataError,
            "--compare: no bar is common to all of these runs: a 2022-01-01 00:00 to 2022-01-03 01:00; b 2022-01-03 "
            "02:00 to 2022-01-05 03:00",
        ),
        (
            [{"name": "a"}, {"name": "b", "interval": "D"}],
            ConfigError,
            "--compare: runs of one interval only, not of 60 and D",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(tmp_path, made, error, message):
    runs = [read_traded(_run(tmp_path, equity=_walk(50, 0), **each)) for each in made]
    with pytest.raises(error) as refused:
        compare_runs(runs)
    assert str(refused.value) == message


def test_a_run_is_not_compared_with_itself(tmp_path):
    run = read_traded(_run(tmp_path, "a", equity=_walk(50, 0)))
    with pytest.raises(ConfigError) as refused:
        compare_runs([run, run])
    assert str(refused.value) == "--compare: a is there more than once"


def test_a_run_without_a_whole_backtest_is_refused(tmp_path):
    run = _run(tmp_path, "a", _walk(50, 0))
    written = (run.path / "backtest.json").read_text()
    path = run.path / "backtest.json"
    for told in ("{", '{"metrics": {}}', written.replace("24/7", "%s")):
        path.write_text(told)
        with pytest.raises(DataError) as refused:
            read_traded(run)
        assert str(refused.value) == f"{path}: not whole; make it again with `flashtrader backtest --run {run.path}`"
    path.unlink()
    with pytest.raises(DataError) as refused:
        read_traded(run)
    assert str(refused.value) == (
        f"{run.path}: no backtest to compare; make it with `flashtrader backtest --run {run.path}`"
    )


def test_few_common_bars_have_no_interval(tmp_path):
    runs = [_run(tmp_path, name, _walk(10, seed)) for seed, name in enumerate("ab")]
    assert compare_runs(list(map(read_traded, runs))).common[1].difference_interval is None
