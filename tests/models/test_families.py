import numpy as np
import torch

from flashtrader.config import DataConfig, Experiment, ModelConfig
from flashtrader.models.families import build_model
from flashtrader.models.model import GridModel, Standardiser
from flashtrader.panel.scaling import Scaler

SCALER = Scaler(
    feature_mean=np.array([[1.0, 10.0], [0.0, -5.0]], dtype=np.float32),
    feature_std=np.array([[2.0, 5.0], [1.0, 0.5]], dtype=np.float32),
    target_std=np.array([0.01, 0.03], dtype=np.float32),
)


def test_features_are_in_standard_deviations_clipped_and_zero_where_unknown() -> None:
    values = torch.tensor([[[[5.0, 0.0], [7.0, -4.0]], [[1.0, 10.0], [1e9, torch.nan]]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    scaled = Standardiser(SCALER, clip=3.0).features(values, mask)
    assert scaled.tolist() == [[[[2.0, -2.0], [3.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]]]


def build(scaler: Scaler) -> GridModel:
    experiment = Experiment(data=DataConfig(symbols=("A", "B")), model=ModelConfig(width=8, layers=1, heads=2))
    return build_model(experiment, scaler)


def test_outputs_and_targets_are_in_units_of_the_targets_deviation_and_keep_their_zero() -> None:
    model = build(SCALER)
    targets = torch.tensor([[[0.02, -0.03], [0.0, torch.nan]]])
    torch.testing.assert_close(
        model.standardise(targets), torch.tensor([[[2.0, -1.0], [0.0, torch.nan]]]), equal_nan=True
    )
    torch.testing.assert_close(model.forecast(model.standardise(targets)[..., None]), targets, equal_nan=True)


def test_the_weights_bring_their_scaler_along() -> None:
    ones = np.ones((2, 2), dtype=np.float32)
    other = build(Scaler(feature_mean=ones, feature_std=ones, target_std=ones[0]))
    other.load_state_dict(build(SCALER).state_dict())
    for name in ("feature_mean", "feature_std", "target_std"):
        np.testing.assert_array_equal(getattr(other.standardiser, name).numpy(), getattr(SCALER, name))


def test_a_missing_bar_and_an_average_one_are_told_apart() -> None:
    model = build(SCALER)
    torch.nn.init.normal_(model.head.weight)
    values = torch.from_numpy(SCALER.feature_mean)[None, None]
    there, gone = (model(values, torch.full((1, 1, 2), known)) for known in (True, False))
    assert not torch.equal(there, gone)
