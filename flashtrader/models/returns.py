"""The multi-asset forecaster."""

import torch
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import GridModel, Standardiser, build_decoder, zero_head
from flashtrader.panel.scaling import Scaler


class ReturnsModel(GridModel):
    """One token holds all assets' features of one bar; predicts each asset's log return over the horizon."""

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__()
        width = experiment.model.width
        self.standardiser = Standardiser(scaler, experiment.panel.clip)
        assets, features, targets = self.standardiser.shape
        self.tokeniser = nn.Linear(assets * (features + 1), width)
        self.decoder = build_decoder(experiment, entities=1)
        self.head = zero_head(width, targets)

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, E, 1): each asset's forecast at each bar, in standard deviations of its target."""
        features_BTEF = self.standardiser.features(values_BTEF, mask_BTE)
        present_BTE1 = mask_BTE[..., None].to(features_BTEF.dtype)
        token_BTD = self.tokeniser(torch.cat((features_BTEF, present_BTE1), dim=-1).flatten(-2))
        return self.head(self.decoder(token_BTD[:, :, None], past)[:, :, 0])[..., None]  # type: ignore[no-any-return]
