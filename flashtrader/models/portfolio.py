"""Cross-asset attention: a token for each asset and bar."""

import torch
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import GridModel, Standardiser, build_decoder, zero_head
from flashtrader.panel.scaling import Scaler


class PortfolioModel(GridModel):
    """One token holds one asset's features of one bar; predicts each asset's log return over the horizon.

    Assets share the tokeniser and the head, and differ in their scaler and their embedding. One that is not listed yet,
    or misses the bar, has a token that says so and holds nothing else.
    """

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__()
        width = experiment.model.width
        self.standardiser = Standardiser(scaler, experiment.panel.clip)
        assets, features, _ = self.standardiser.shape
        self.tokeniser = nn.Linear(features + 1, width)
        self.decoder = build_decoder(experiment, entities=assets)
        self.head = zero_head(width, 1)

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, E, 1): each asset's forecast at each bar, in standard deviations of its target."""
        features_BTEF = self.standardiser.features(values_BTEF, mask_BTE)
        present_BTE1 = mask_BTE[..., None].to(features_BTEF.dtype)
        token_BTED = self.tokeniser(torch.cat((features_BTEF, present_BTE1), dim=-1))
        return self.head(self.decoder(token_BTED, past))  # type: ignore[no-any-return]


class WeightsModel(PortfolioModel):
    """Answers with each asset's target weight instead, so that what is learned is what is traded."""

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__(experiment, scaler)
        self.max_gross = experiment.backtest.max_gross

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, E, 1): fractions of equity, negative for short; 0 for an absent asset, and Σ|w| ≤ max_gross."""
        scores_BTE = super().forward(values_BTEF, mask_BTE, past)[..., 0].float()
        weights_BTE = scores_BTE.tanh() * mask_BTE
        gross_BT1 = weights_BTE.abs().sum(dim=-1, keepdim=True)
        return (weights_BTE / (gross_BT1 / self.max_gross).clamp(min=1.0))[..., None]

    def standardise(self, targets_BTK: Tensor) -> Tensor:
        """Return returns as they are: money is made of those."""
        return targets_BTK

    def forecast(self, outputs_BTKP: Tensor) -> Tensor:
        """Return the target weights (B, T, K)."""
        return outputs_BTKP[..., 0]


def portfolio_model(experiment: Experiment, scaler: Scaler) -> PortfolioModel:
    """Return the model that `training.loss` asks for: of weights under the Sharpe ratio, else of returns."""
    return (WeightsModel if experiment.training.loss == "sharpe" else PortfolioModel)(experiment, scaler)
