"""The table of families, and a model of an experiment: untrained, or from its file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, TrainingError
from flashtrader.models.candles import CandleModel
from flashtrader.models.model import GridModel, unit_scaler
from flashtrader.models.orderbook import OrderBookModel
from flashtrader.models.portfolio import portfolio_model
from flashtrader.models.returns import ReturnsModel
from flashtrader.models.weights import load_tensors
from flashtrader.panel.loading import panel_shape
from flashtrader.panel.scaling import Scaler

FAMILIES: dict[str, Callable[[Experiment, Scaler], GridModel]] = {
    "returns": ReturnsModel,
    "candles": CandleModel,
    "portfolio": portfolio_model,
    "orderbook": OrderBookModel,
}


def build_model(experiment: Experiment, scaler: Scaler) -> GridModel:
    """Return an untrained model of the experiment's family, with weights drawn from its seed.

    Raises ConfigError for a plain family, which has no transformer.
    """
    if experiment.plain_family is not None:
        raise ConfigError(
            f"model.family: {experiment.plain_family} is a plain model, fitted at once and without a "
            "transformer, which --dry-run, --follow and --attention are about; leave the option out"
        )
    torch.manual_seed(experiment.training.seed)
    return FAMILIES[experiment.model.family](experiment, scaler)


def load_model(path: Path, experiment: Experiment) -> GridModel:
    """Return the trained model whose weights and scaler `path` holds, on the CPU, ready to forecast.

    Raises TrainingError when the file is missing, damaged, or of another shape than the experiment says.
    """
    tensors, _ = load_tensors(path)
    scaler = unit_scaler(panel_shape(experiment))
    # First without memory: a config can ask for more than any machine has, and only then is it seen not to fit.
    with torch.device("meta"):
        described = build_model(experiment, scaler).state_dict()
    if _shapes(tensors) != _shapes(described):
        raise TrainingError(
            f"{path}: the weights do not fit the run's config.yaml; restore both from a copy, or train again"
        )
    model = build_model(experiment, scaler)
    model.load_state_dict(tensors)
    return model.eval()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
