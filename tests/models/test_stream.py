from dataclasses import replace

import numpy as np
import pytest
import torch

from flashtrader.config import DataConfig, Experiment, ModelConfig, TrainingConfig
from flashtrader.errors import TrainingError
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.stream import chunk_length, forecast_rows
from flashtrader.panel.loading import PanelShape
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows
from panels import random_panel

CONTEXT = 6


@pytest.fixture
def model() -> GridModel:
    experiment = Experiment(
        data=DataConfig(symbols=("S0", "S1")),
        model=ModelConfig(context_bars=CONTEXT, width=16, layers=2, heads=2),
        training=TrainingConfig(segment_bars=32),
    )
    built = build_model(experiment, unit_scaler(PanelShape(entities=2, features=3, targets=2)))
    torch.nn.init.normal_(built.head.weight)
    return built.eval()


def one_window_per_row(model: GridModel, panel: Panel, row: int) -> np.ndarray:
    """What a program without a cache does: a pass over just what the row can see."""
    run_start = max(start for start in panel.run_starts if start <= row)
    window = slice(max(run_start, row - model.decoder.receptive_bars), row + 1)
    values, mask = torch.from_numpy(panel.values[None, window]), torch.from_numpy(panel.mask[None, window])
    with torch.inference_mode():
        return model.forecast(model(values, mask))[0, -1].numpy()


def test_one_pass_equals_one_window_per_row(model: GridModel) -> None:
    panel = random_panel(700, breaks=(300,))
    whole = forecast_rows(model, panel, Rows(0, 700), warmup_bars=4)
    for row in (4, 5, 50, 255, 256, 257, 299, 304, 305, 512, 600, 699):
        expected = np.where(panel.mask[row], one_window_per_row(model, panel, row), np.nan)
        np.testing.assert_allclose(whole[row], expected, rtol=0, atol=1e-5)


def test_a_part_equals_the_same_rows_of_the_whole(model: GridModel) -> None:
    panel = random_panel(700, breaks=(300,))
    whole = forecast_rows(model, panel, Rows(0, 700), warmup_bars=4)
    for rows in (Rows(0, 10), Rows(298, 400), Rows(699, 700), Rows(350, 650)):
        part = forecast_rows(model, panel, rows, warmup_bars=4)
        np.testing.assert_allclose(part, whole[rows.start : rows.stop], rtol=0, atol=1e-6)


def test_there_is_no_forecast_without_warm_up_or_for_a_missing_bar(model: GridModel) -> None:
    panel = random_panel(400, breaks=(300,))
    whole = forecast_rows(model, panel, Rows(0, 400), warmup_bars=4)
    warming = np.isin(np.arange(400), [0, 1, 2, 3, 300, 301, 302, 303])
    assert (~panel.mask).any()
    np.testing.assert_array_equal(np.isnan(whole), warming[:, None] | ~panel.mask)


def test_a_model_that_answers_with_no_number_is_named(model: GridModel) -> None:
    torch.nn.init.constant_(model.head.bias, torch.nan)
    with pytest.raises(TrainingError) as refused:
        forecast_rows(model, random_panel(50), Rows(0, 50), warmup_bars=4)
    assert str(refused.value) == (
        "the model's forecast at 1970-01-01T00:00:00Z is not a number: its training diverged, or its weights are bad; "
        "train again"
    )


def test_what_comes_later_changes_no_bit_of_a_forecast(model: GridModel) -> None:
    panel = random_panel(600)
    cut = 2 * chunk_length(CONTEXT) - 40
    noise = random_panel(600, seed=1)
    changed = replace(
        panel,
        values=np.concatenate([panel.values[:cut], 100 * noise.values[cut:]]),
        mask=np.concatenate([panel.mask[:cut], noise.mask[cut:]]),
    )
    shortened = replace(
        panel,
        timestamps=panel.timestamps[:cut],
        values=panel.values[:cut],
        mask=panel.mask[:cut],
        targets=panel.targets[:cut],
    )
    before = forecast_rows(model, panel, Rows(0, 600), warmup_bars=4)
    after = forecast_rows(model, changed, Rows(0, 600), warmup_bars=4)
    np.testing.assert_array_equal(after[:cut], before[:cut])
    assert not np.array_equal(after[cut:], before[cut:], equal_nan=True)
    np.testing.assert_array_equal(forecast_rows(model, shortened, Rows(0, cut), warmup_bars=4), before[:cut])
