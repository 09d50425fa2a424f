"""Sections `policy` and `backtest`: from forecasts to target weights, and from these to money."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from flashtrader.config.section import Section
from flashtrader.interval import CalendarName


class TanhPolicy(Section):
    """Target weight = max_weight · tanh(scale · forecast)."""

    kind: Literal["tanh"]
    """This policy's name."""
    scale: PositiveFloat = 10.0
    """How fast the weight grows with the forecast."""
    max_weight: Annotated[float, Field(gt=0)] = 0.25
    """Largest weight of one market, as a fraction of equity."""


class ThresholdPolicy(Section):
    """Long above one forecast, short below another, flat between."""

    kind: Literal["threshold"]
    """This policy's name."""
    long_above: float = 0.0
    """Forecasts above this are bought."""
    short_below: float | None = None
    """Forecasts below this are sold short; null never sells short."""
    weight: Annotated[float, Field(gt=0)] = 0.25
    """Size of a position, as a fraction of equity."""

    @model_validator(mode="after")
    def _flat_zone(self) -> Self:
        if self.short_below is not None and self.short_below > self.long_above:
            raise ValueError("short_below must not exceed long_above")
        return self


class WeightsPolicy(Section):
    """The forecasts are target weights already: of a portfolio that was trained by its Sharpe ratio."""

    kind: Literal["weights"]
    """This policy's name."""


PolicyConfig = Annotated[TanhPolicy | ThresholdPolicy | WeightsPolicy, Field(discriminator="kind")]


class BacktestConfig(Section):
    """How target weights become money."""

    initial_equity: PositiveFloat = 100_000.0
    """Currency at the first bar."""
    fill: Literal["next_open", "close"] = "next_open"
    """Price of a trade decided at a bar: the next bar's open, or that very bar's close."""
    fee_bps: NonNegativeFloat = 5.5
    """Exchange fee in basis points of traded value, each side."""
    slippage_bps: NonNegativeFloat = 2.0
    """Spread and impact in basis points of traded value, each side."""
    no_trade_band: NonNegativeFloat = 0.0
    """Trades smaller than this fraction of equity are left out."""
    max_gross: PositiveFloat = 1.0
    """Largest sum of absolute weights; a larger row is scaled down to it."""
    funding_rate: float | None = None
    """Rate that longs pay to shorts every eight hours; null charges none, and the report says so."""
    calendar: CalendarName = "24/7"
    """Trading time that annualises results."""

    @property
    def cost_rate(self) -> float:
        """Cost of a trade, as a fraction of its value."""
        return (self.fee_bps + self.slippage_bps) / 1e4
