"""What every family shares: the scaler inside the model, the decoder, and what a model answers to.

Shapes: B sequences, T bars, E entities, F features, K targets, P numbers for each target, D width.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.decoder import Decoder, GridShape
from flashtrader.models.grid import GridTransformer
from flashtrader.panel.loading import PanelShape
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

    @property
    def shape(self) -> PanelShape:
        """Entities, features and targets."""
        entities, features = self.feature_mean.shape
        return PanelShape(entities, features, len(self.target_std))

    def features(self, values_BTEF: Tensor, mask_BTE: Tensor) -> Tensor:
        """Return values in standard deviations, limited to ±clip; 0, the mean, where there is none."""
        scaled = ((values_BTEF - self.feature_mean) / self.feature_std).clamp(-self.clip, self.clip)
        return torch.where(mask_BTE[..., None], scaled, 0.0)


class GridModel(nn.Module, ABC):
    """A family: how tokens are made of a panel's values, and what is read off the decoder.

    A model takes raw values and their mask and holds the scaler that was fitted on its training rows.
    """

    standardiser: Standardiser
    decoder: Decoder
    numbers_per_target = 1
    """P: what the model answers of each target."""

    @abstractmethod
    def forward(self, values_BTEF: Tensor, mask_BTE: Tensor, past: KeyValueCache | None = None) -> Tensor:
        """Return (B, T, K, P): of each target at each bar, what the objective compares with `standardise(targets)`.

        The output at a bar depends on that bar and earlier ones only. With a cache, the bars continue the history that
        the cache has read.
        """

    def standardise(self, targets_BTK: Tensor) -> Tensor:
        """Return targets in the unit of the outputs: here, standard deviations."""
        return targets_BTK / self.standardiser.target_std

    def forecast(self, outputs_BTKP: Tensor) -> Tensor:
        """Return the forecast of each target, in its own unit (B, T, K): here, the first number in deviations."""
        return outputs_BTKP[..., 0] * self.standardiser.target_std


def build_decoder(experiment: Experiment, entities: int) -> Decoder:
    """Return the experiment's decoder over a grid of so many entities.

    Raises ConfigError when the backbone's library is missing, BackendError when its attention can't run here.
    """
    model = experiment.model
    shape = GridShape(
        entities=entities,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        context_bars=experiment.context_bars,
        dropout=model.dropout,
        backend=model.attention,
        mixing=model.mixing,
    )
    if model.backbone == "grid":
        return GridTransformer(shape)
    try:
        from flashtrader.models.hf import HfDecoder
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"model.backbone: hf needs {error.name}; pip install 'flashtrader[hf]', or set it to grid"
        ) from None
    return HfDecoder(shape, experiment)


def zero_head(width: int, outputs: int) -> nn.Linear:
    """Return a head that first answers 0, whatever it sees: no change."""
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def unit_scaler(shape: PanelShape) -> Scaler:
    """Return the scaler that changes nothing: of a model whose own is not known yet."""
    return Scaler(
        feature_mean=np.zeros((shape.entities, shape.features), dtype=np.float32),
        feature_std=np.ones((shape.entities, shape.features), dtype=np.float32),
        target_std=np.ones(shape.targets, dtype=np.float32),
    )
