"""The order-book model: up, flat or down."""

import torch
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import GridModel, Standardiser, build_decoder, zero_head
from flashtrader.panel.scaling import Scaler


class OrderBookModel(GridModel):
    """One token is one level of one side in one snapshot; predicts the direction of the mid-price.

    One tokeniser reads every level: the decoder's embedding of each entity tells levels apart. The head sees
    the mean of the bids beside the mean of the asks, for what moves a price is the difference of the sides, which one
    mean over all levels would hide; inside a side, the decoder itself learns which levels count.
    """

    numbers_per_target = 3

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__()
        width = experiment.model.width
        self.standardiser = Standardiser(scaler, experiment.panel.clip)
        levels_of_both_sides, features, _ = self.standardiser.shape
        self.tokeniser = nn.Linear(features + 1, width)
        self.decoder = build_decoder(experiment, entities=levels_of_both_sides)
        self.head = zero_head(2 * width, self.numbers_per_target)

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, 1, 3): logits of down, flat and up after each snapshot."""
        features_BTEF = self.standardiser.features(values_BTEF, mask_BTE)
        present_BTE1 = mask_BTE[..., None].to(features_BTEF.dtype)
        hidden_BTED = self.decoder(self.tokeniser(torch.cat((features_BTEF, present_BTE1), dim=-1)), past)
        side_BT2D = hidden_BTED.unflatten(2, (2, -1)).mean(dim=3)
        return self.head(side_BT2D.flatten(-2))[:, :, None]  # type: ignore[no-any-return]

    def standardise(self, targets_BTK: Tensor) -> Tensor:
        """Return the directions as they are: classes have no unit."""
        return targets_BTK

    def forecast(self, outputs_BTKP: Tensor) -> Tensor:
        """Return P(up) − P(down) (B, T, K)."""
        probability_BTKP = direction_probabilities(outputs_BTKP)
        return probability_BTKP[..., 2] - probability_BTKP[..., 0]


def direction_probabilities(logits_BTKP: Tensor) -> Tensor:
    """Return the probabilities of down, flat and up (B, T, K, 3).

    A model that was trained with balanced classes answers as if each were as common as the others.
    """
    return logits_BTKP.softmax(dim=-1)
