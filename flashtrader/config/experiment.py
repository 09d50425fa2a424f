"""The whole of one YAML file, and how its sections fit together."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from flashtrader.config.data import DataConfig, PanelConfig
from flashtrader.config.model import PLAIN_FAMILIES, ModelConfig, PlainFamily
from flashtrader.config.section import Section
from flashtrader.config.split import SplitConfig
from flashtrader.config.trading import BacktestConfig, PolicyConfig, TanhPolicy
from flashtrader.config.training import TrainingConfig

_LEARNED: dict[str, dict[str, tuple[str, ...]]] = {
    "candles": {"next_candle": ("huber", "mse")},
    "portfolio": {"log_return": ("huber", "mse"), "fill_return": ("sharpe",)},
    "orderbook": {"direction": ("cross_entropy",)},
}
"""Targets and losses of the families that don't learn a log return."""

_TAKEN_BY = {
    "data.category": ("source", "bybit"),
    "data.noise_only": ("source", "simulated"),
    "data.interval": ("kind", "bars"),
    "data.levels": ("kind", "books"),
    "panel.features": ("kind", "bars"),
    "panel.max_gap_bars": ("kind", "bars"),
    "panel.max_gap_ms": ("kind", "books"),
    "panel.multiscale": ("family", "candles"),
    "model.distribution": ("family", "candles"),
    "model.volume_head": ("family", "candles"),
    "training.volume_weight": ("family", "candles"),
}
"""Keys that mean something to one kind of experiment alone."""

_LONGEST_NAME = 220
"""Beside what is added to it, in the 255 bytes that the name of a file may have."""
_LONGEST_MEMBER = 30
"""What the name of one of several models has more: -fold-01-seed-4294967295."""


class Experiment(Section):
    """One YAML file: one experiment."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run directory; the file's own name unless given."""
    data: DataConfig
    """Which stored bars."""
    panel: PanelConfig = PanelConfig()
    """What the model sees."""
    split: SplitConfig = SplitConfig()
    """Training, validation and test by time."""
    model: ModelConfig = ModelConfig()
    """The transformer."""
    training: TrainingConfig = TrainingConfig()
    """The training loop."""
    policy: PolicyConfig = TanhPolicy(kind="tanh")
    """From forecasts to target weights."""
    backtest: BacktestConfig = BacktestConfig()
    """From target weights to money."""

    @field_validator("policy", mode="before")
    @classmethod
    def _tanh_unless_named(cls, policy: object) -> object:
        return {"kind": "tanh", **policy} if isinstance(policy, dict) else policy

    @model_validator(mode="after")
    def _family_fits_its_target(self) -> Self:
        family, target, loss = self.model.family, self.panel.target.kind, self.training.loss
        learned = _LEARNED.get(family, {"log_return": ("huber", "mse")})
        if target not in learned:
            raise ValueError(f"panel.target.kind: family {family} learns {' or '.join(learned)}, not {target}")
        if loss not in learned[target]:
            raise ValueError(f"training.loss: {target} of family {family} takes {' or '.join(learned[target])}")
        kind = "books" if family == "orderbook" else "bars"
        if self.data.kind != kind:
            raise ValueError(f"data.kind: family {family} reads {kind}, not {self.data.kind}")
        if (self.policy.kind == "weights") != (loss == "sharpe"):
            raise ValueError("policy.kind: weights goes with training.loss: sharpe, and with nothing else")
        if loss == "sharpe" and self.training.labels == "last":
            raise ValueError("training.labels: sharpe is learned from bars in a row; take labels: all")
        if family in ("candles", "orderbook") and len(self.data.symbols) > 1:
            raise ValueError(f"data.symbols: family {family} reads one market; train one run for each")
        return self

    @model_validator(mode="after")
    def _name_fits_a_file(self) -> Self:
        most = _LONGEST_NAME - (_LONGEST_MEMBER if self.has_members else 0)
        if len(self.name) > most:
            raise ValueError(
                f"name: {len(self.name)} letters; take {most} at most, for the names of files begin with it"
            )
        return self

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> Self:
        """Refuse a key that changes nothing here; one at its default can't be told from one that is not there."""
        is_of = {"family": self.model.family, "kind": self.data.kind, "source": self.data.source}
        for key, (what, only) in _TAKEN_BY.items():
            name, _, field = key.partition(".")
            section: Section = getattr(self, name)
            default = type(section).model_fields[field].default
            if is_of[what] != only and getattr(section, field) != default:
                raise ValueError(f"{key}: only {what} {only} takes it, not {is_of[what]}")
        return self

    @model_validator(mode="after")
    def _context_fits_a_segment(self) -> Self:
        context, segment = self.model.context_bars, self.training.segment_bars
        if context is not None and context > segment:
            raise ValueError(
                f"model.context_bars ({context}) is longer than training.segment_bars ({segment}): no bar of a segment "
                "would see all of its context; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _window_reaches_one_stretch_back(self) -> Self:
        parts = self.training.context_parallel
        stretch_bars = self.training.segment_bars // parts
        if parts > 1 and stretch_bars < self.context_bars - 1:
            raise ValueError(
                f"training.context_parallel: of {parts} processes each holds {stretch_bars} bars of a segment, fewer "
                f"than the {self.context_bars - 1} earlier ones that a window of {self.context_bars} sees; lower it or "
                "model.context_bars, or raise training.segment_bars"
            )
        return self

    @model_validator(mode="after")
    def _forecasts_can_be_stitched(self) -> Self:
        family = self.model.family
        key = "split.walk_forward" if self.split.walk_forward else "training.seeds" if self.training.seeds else None
        if key and family in ("candles", "orderbook"):
            raise ValueError(
                f"{key}: of several models, forecasts of returns and weights are stitched and averaged; what family "
                f"{family} answers is neither; leave it out"
            )
        return self

    @property
    def has_members(self) -> bool:
        """Whether several models are trained: of folds, of seeds, or of both."""
        return self.split.walk_forward is not None or (bool(self.training.seeds) and self.plain_family is None)

    @property
    def warm_starts(self) -> bool:
        """Whether a fold's model begins as the best one of the fold before."""
        walk = self.split.walk_forward
        return walk is not None and walk.warm_start and self.plain_family is None

    @property
    def reach_bars(self) -> int:
        """Bars from a decision to the last one that has a part in what came of it.

        A label ends with its target's horizon. A position filled at the next bar's open and held as long ends one bar
        later; the target `fill_return` counts that bar already.
        """
        target = self.panel.target
        entered_late = self.backtest.fill == "next_open" and target.kind in ("log_return", "next_candle")
        return target.horizon_bars + entered_late

    @property
    def plain_family(self) -> PlainFamily | None:
        """The family, where the model is a plain one: fitted at once and without a transformer."""
        return next((family for family in PLAIN_FAMILIES if family == self.model.family), None)

    @property
    def plain_models(self) -> tuple[PlainFamily, ...]:
        """The plain models that stand beside this experiment's own."""
        comparable = self.panel.target.kind == "log_return" and self.plain_family is None
        return self.training.plain_models if comparable else ()

    @property
    def context_bars(self) -> int:
        """Bars that each layer sees at most, in training and in forecasting."""
        return self.model.context_bars or self.training.segment_bars

    @property
    def warmup_bars(self) -> int:
        """Leading bars of a segment, or of a history, without a label or a forecast."""
        if self.training.warmup_bars is not None:
            return self.training.warmup_bars
        return min(self.context_bars, self.training.segment_bars // 2)

    @property
    def unlabelled_bars(self) -> int:
        """Leading bars of a training segment that are not learned from."""
        return self.training.segment_bars - 1 if self.training.labels == "last" else self.warmup_bars
