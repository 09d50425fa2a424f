"""What makes a model of a family: how tokens are made of a panel, and what is read off the decoder.

A family is a tokeniser and a head around the one GridTransformer. Every model takes a panel's raw values and their
mask, holds the scaler that was fitted on its training rows, and answers in units of the targets' standard deviation.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.errors import TrainingError
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.grid import GridShape, GridTransformer
from flashtrader.models.weights import load_tensors
from flashtrader.panel.scaling import Scaler


class Standardiser(nn.Module):
    """The training rows' scaler as part of the model, so that weights can't be used with another one."""

    feature_mean: Tensor
    feature_std: Tensor
    target_std: Tensor

    def __init__(self, scaler: Scaler, clip: float) -> None:
        super().__init__()
        self.clip = clip
        for name in ("feature_mean", "feature_std", "target_std"):
            self.register_buffer(name, torch.tensor(getattr(scaler, name), dtype=torch.float32))

    def features(self, values_BTEF: Tensor, mask_BTE: Tensor) -> Tensor:
        """Return values in standard deviations, limited to ±clip; 0, the mean, where there is none."""
        scaled = ((values_BTEF - self.feature_mean) / self.feature_std).clamp(-self.clip, self.clip)
        return torch.where(mask_BTE[..., None], scaled, 0.0)


class ReturnsModel(nn.Module):
    """The multi-asset forecaster: one token holds all assets' features of one bar; predicts each asset's log return."""

    def __init__(self, experiment: Experiment, num_features: int, scaler: Scaler) -> None:
        super().__init__()
        model = experiment.model
        assets = len(experiment.data.symbols)
        self.standardiser = Standardiser(scaler, experiment.panel.clip)
        self.tokeniser = nn.Linear(assets * (num_features + 1), model.width)
        self.decoder = GridTransformer(
            GridShape(
                entities=1,
                width=model.width,
                layers=model.layers,
                heads=model.heads,
                context_bars=experiment.context_bars,
                dropout=model.dropout,
                backend=model.attention,
            )
        )
        self.head = nn.Linear(model.width, assets)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, E): each asset's forecast at each bar, in standard deviations of its target.

        The output at a bar depends on that bar and earlier ones only.
        """
        features_BTEF = self.standardiser.features(values_BTEF, mask_BTE)
        present_BTE1 = mask_BTE[..., None].to(features_BTEF.dtype)
        token_BTD = self.tokeniser(torch.cat((features_BTEF, present_BTE1), dim=-1).flatten(-2))
        return self.head(self.decoder(token_BTD[:, :, None], past)[:, :, 0])  # type: ignore[no-any-return]

    def standardise(self, targets_BTK: Tensor) -> Tensor:
        """Return targets in the unit of the outputs."""
        return targets_BTK / self.standardiser.target_std

    def forecast(self, outputs_BTK: Tensor) -> Tensor:
        """Return outputs as log returns over the horizon."""
        return outputs_BTK * self.standardiser.target_std


FAMILIES = {"returns": ReturnsModel}


def build_model(experiment: Experiment, num_features: int, scaler: Scaler) -> ReturnsModel:
    """Return an untrained model of the experiment's family, with weights drawn from its seed."""
    torch.manual_seed(experiment.training.seed)
    return FAMILIES[experiment.model.family](experiment, num_features, scaler)


def unit_scaler(num_assets: int, num_features: int) -> Scaler:
    """Return the scaler that changes nothing: of a model whose own is not known yet."""
    return Scaler(
        feature_mean=np.zeros((num_assets, num_features), dtype=np.float32),
        feature_std=np.ones((num_assets, num_features), dtype=np.float32),
        target_std=np.ones(num_assets, dtype=np.float32),
    )


def load_model(path: Path, experiment: Experiment, num_features: int) -> ReturnsModel:
    """Return the trained model whose weights and scaler `path` holds, on the CPU, ready to forecast.

    Raises TrainingError when the file is missing, damaged, or of another shape than the experiment says.
    """
    model = build_model(experiment, num_features, unit_scaler(len(experiment.data.symbols), num_features))
    tensors, _ = load_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise TrainingError(f"{path}: the weights do not fit the run's config.yaml; was one of them edited?") from None
    return model.eval()
