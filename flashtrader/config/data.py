"""Sections `data` and `panel`: which markets, what the model sees of them, and what it forecasts."""

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from flashtrader.config.section import EachOnce, Section, UtcTime
from flashtrader.interval import IntervalCode

Symbols = Annotated[tuple[str, ...], Field(min_length=1), EachOnce]
SourceName = Literal["bybit", "yahoo", "file", "simulated"]


class DataConfig(Section):
    """Which stored bars the experiment uses."""

    symbols: Symbols
    """Markets, in the order of the forecasts' columns."""
    kind: Literal["bars", "books"] = "bars"
    """Bars, or snapshots of the order book, whose rows are events: `interval` does not apply to them."""
    source: SourceName = "bybit"
    """Where `fetch` got them from."""
    category: Literal["linear", "spot"] = "linear"
    """Bybit only: USDT perpetuals or the spot market."""
    noise_only: bool = False
    """Simulated only: the twin market in which nothing can be forecast."""
    interval: Annotated[IntervalCode, BeforeValidator(str)] = "60"
    """Bar length: minutes, or D, W, M."""
    levels: Annotated[PositiveInt, Field(le=1_000)] = 20
    """Books only: price levels of each side, the best first; a deeper stored book serves a shallower one."""
    start: UtcTime | None = None
    """First bar; null is the oldest one stored."""
    end: UtcTime | None = None
    """Bars that open before this time; null is everything stored."""

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"start {self.start:%Y-%m-%d %H:%M} is not before end {self.end:%Y-%m-%d %H:%M}")
        return self

    @model_validator(mode="after")
    def _books_are_recorded(self) -> Self:
        if self.kind == "books" and self.source not in ("bybit", "file"):
            raise ValueError(f"kind books goes with source bybit or file, not {self.source}")
        return self


class LogReturnTarget(Section):
    """log(close[i + horizon] / close[i]) of every market: families returns and portfolio, and the plain models."""

    kind: Literal["log_return"]
    """This target's name."""
    horizon_bars: PositiveInt = 24
    """Bars from the decision to the outcome."""


class FillReturnTarget(Section):
    """Simple return of every market from one decision's fill to the next's: for weights learned directly."""

    kind: Literal["fill_return"]
    """This target's name."""

    @property
    def horizon_bars(self) -> int:
        """Bars from the decision to the outcome: filled at the next open, held to the one after."""
        return 2


class NextCandleTarget(Section):
    """The next candle: logarithms of its prices less this close's, of one plus its volume less this one's."""

    kind: Literal["next_candle"]
    """This target's name."""

    @property
    def horizon_bars(self) -> int:
        """Bars from the decision to the outcome."""
        return 1


class DirectionTarget(Section):
    """Whether the mid-price is up, flat or down after some events: family orderbook."""

    kind: Literal["direction"]
    """This target's name."""
    horizon_bars: PositiveInt = 50
    """Snapshots from the decision to the outcome."""
    threshold_bps: NonNegativeFloat = 0.0
    """Moves of at most this many basis points, either way, are flat."""


TargetConfig = Annotated[
    LogReturnTarget | FillReturnTarget | NextCandleTarget | DirectionTarget, Field(discriminator="kind")
]


class PanelConfig(Section):
    """What the model sees of each market at every bar."""

    features: Annotated[tuple[str, ...], Field(min_length=1), EachOnce] = (
        "log_return",
        "volatility_24",
        "volume_ratio_24",
        "price_ratio_24",
        "rsi_14",
    )
    """Causal features; a number in a name is its window in bars."""
    target: TargetConfig = LogReturnTarget(kind="log_return")
    """What is forecast."""
    multiscale: Annotated[tuple[Annotated[IntervalCode, BeforeValidator(str)], ...], EachOnce] = ()
    """Family candles: longer intervals whose newest closed candle is a token beside every bar."""
    max_gap_bars: NonNegativeInt = 3
    """Missing bars in a row that features, targets and segments may bridge; a longer outage splits the history."""
    max_gap_ms: PositiveInt = 10_000
    """Books only: milliseconds between two snapshots that count as neighbours; a longer silence splits the history."""
    clip: PositiveFloat = 10.0
    """Scaled features are limited to this many standard deviations either way."""

    @field_validator("target", mode="before")
    @classmethod
    def _log_return_unless_named(cls, target: object) -> object:
        return {"kind": "log_return", **target} if isinstance(target, dict) else target
