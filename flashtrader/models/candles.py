"""The autoregressive candle model: the next candle, and a distribution from which any sample is a candle."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import StudentT

from flashtrader.config import Experiment
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import GridModel, Standardiser, build_decoder, zero_head
from flashtrader.panel.candles import NUM_COLUMNS
from flashtrader.panel.scaling import Scaler

NUM_PARAMETERS = 4
"""Of one variable's distribution: location, logarithm of the scale, what the degrees of freedom are made of, tie."""
SMALLEST_SCALE = 0.02
"""In standard deviations. Prices move in ticks: where one value comes again and again, a density without a floor would
have no bound, and its gradient would drown all others."""
FEWEST_DEGREES = 2.0
"""Of freedom: above them the variance is finite."""


class NextShape(NamedTuple):
    """The distribution of the next candle's SHAPE (..., 5): each variable is a tie, exactly 0, or Student-t.

    In minutes no gap, no body, no wick and unchanged volume are common; a density alone would find them infinitely
    likely. The five are independent given what the model has read: what moves them together from bar to bar is in their
    parameters, but that a long body tends to come with more volume within one bar is not.
    """

    tie_logits: Tensor
    otherwise: StudentT
    """In standard deviations of each variable."""

    @classmethod
    def of(cls, parameters: Tensor) -> "NextShape":
        """Return the distribution of its parameters (..., 4): of an answer, those of targets 5 to 9."""
        location, log_scale, degrees, tie_logits = parameters.unbind(-1)
        return cls(
            tie_logits,
            StudentT(
                df=FEWEST_DEGREES + nn.functional.softplus(degrees),
                loc=location,
                scale=SMALLEST_SCALE + log_scale.exp(),
                validate_args=False,
            ),
        )

    def log_likelihood(self, shapes: Tensor) -> Tensor:
        """Return the logarithm of each variable's density (...), and of its probability where it is a tie."""
        density: Tensor = self.otherwise.log_prob(shapes)  # type: ignore[no-untyped-call]
        logsigmoid = nn.functional.logsigmoid
        return torch.where(shapes == 0, logsigmoid(self.tie_logits), logsigmoid(-self.tie_logits) + density)


class CandleModel(GridModel):
    """A token is one candle, or the newest closed one of a longer interval; predicts the candle that follows.

    Answers (B, T, 5, 1): the changes that are the panel's first five targets. With a distribution
    (B, T, 10, 4): behind these, whose other numbers are 0, stand the parameters of `NextShape`. An untrained model
    forecasts no change.
    """

    def __init__(self, experiment: Experiment, scaler: Scaler) -> None:
        super().__init__()
        model, width = experiment.model, experiment.model.width
        self.learns_shape = model.distribution == "student_t"
        self.numbers_per_target = NUM_PARAMETERS if self.learns_shape else 1
        self.standardiser = Standardiser(scaler, experiment.panel.clip)
        entities, features, _ = self.standardiser.shape
        self.tokenisers = nn.ModuleList(nn.Linear(features + 1, width) for _ in range(entities))
        self.decoder = build_decoder(experiment, entities)
        numbers = 1 + NUM_PARAMETERS * self.learns_shape  # of each column: its change, and the distribution behind it
        self.price_head = zero_head(width, (NUM_COLUMNS - 1) * numbers)
        own = (nn.Linear(width, width), nn.SiLU()) if model.volume_head else ()
        self.volume_head = nn.Sequential(*own, zero_head(width, numbers))

    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return the answers (B, T, K, P), in standard deviations of the targets."""
        features_BTEF = self.standardiser.features(values_BTEF, mask_BTE)
        present_BTE1 = mask_BTE[..., None].to(features_BTEF.dtype)
        inputs_BTEF = torch.cat((features_BTEF, present_BTE1), dim=-1)
        tokens = [tokeniser(inputs_BTEF[:, :, entity]) for entity, tokeniser in enumerate(self.tokenisers)]
        hidden_BTD = self.decoder(torch.stack(tokens, dim=2), past)[:, :, 0]
        answers_BTN = torch.cat((self.price_head(hidden_BTD), self.volume_head(hidden_BTD)), dim=-1)
        answers_BT5N = answers_BTN.view(*answers_BTN.shape[:-1], NUM_COLUMNS, -1)
        changes, shape = answers_BT5N[..., :1], answers_BT5N[..., 1:]
        if not self.learns_shape:
            return changes
        return torch.cat((nn.functional.pad(changes, (0, NUM_PARAMETERS - 1)), shape), dim=-2)
