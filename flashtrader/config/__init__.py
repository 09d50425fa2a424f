"""The YAML of an experiment: every section, typed, strict, documented under each field. Loads no torch.

A misspelt key is an error that names its dotted path and the nearest key that exists. Values are coerced by
annotation, so `6e-4` is a number and `60` a text wherever the schema says so.
"""

from flashtrader.config.data import (
    DataConfig,
    DirectionTarget,
    FillReturnTarget,
    LogReturnTarget,
    NextCandleTarget,
    PanelConfig,
)
from flashtrader.config.experiment import Experiment
from flashtrader.config.loading import first_problem, known_keys, load_config, to_yaml, validate
from flashtrader.config.model import PLAIN_FAMILIES, ModelConfig, PlainFamily
from flashtrader.config.section import Section, utc
from flashtrader.config.split import SplitConfig, WalkForwardConfig
from flashtrader.config.trading import (
    BacktestConfig,
    ForecastPolicy,
    PolicyConfig,
    TanhPolicy,
    ThresholdPolicy,
    TopKPolicy,
    WeightsPolicy,
)
from flashtrader.config.training import TrainingConfig

__all__ = [
    "PLAIN_FAMILIES",
    "BacktestConfig",
    "DataConfig",
    "DirectionTarget",
    "Experiment",
    "FillReturnTarget",
    "ForecastPolicy",
    "LogReturnTarget",
    "ModelConfig",
    "NextCandleTarget",
    "PanelConfig",
    "PlainFamily",
    "PolicyConfig",
    "Section",
    "SplitConfig",
    "TanhPolicy",
    "ThresholdPolicy",
    "TopKPolicy",
    "TrainingConfig",
    "WalkForwardConfig",
    "WeightsPolicy",
    "first_problem",
    "known_keys",
    "load_config",
    "to_yaml",
    "utc",
    "validate",
]
