"""Sections `policy` and `backtest`: from forecasts to target weights, and from these to money."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from flashtrader.config.section import Section
from flashtrader.interval import CalendarName

Share = Annotated[float, Field(ge=0, le=1)]


class ForecastPolicy(Section):
    """What every policy that reads forecasts can also do with its weights."""

    hold: Literal["decision", "horizon"] = "decision"
    """Until the next decision; or each bar's weights for the horizon, as so many overlapping parts of the equity."""
    volatility_target: PositiveFloat | None = None
    """Annual volatility to which the weights of a bar are scaled, up or down; null leaves them as they are."""
    volatility_bars: Annotated[int, Field(ge=2)] = 168
    """Trailing bars whose returns tell that volatility."""


class TanhPolicy(ForecastPolicy):
    """Target weight = max_weight · tanh(scale · forecast)."""

    kind: Literal["tanh"]
    """This policy's name."""
    scale: PositiveFloat = 10.0
    """How fast the weight grows with the forecast."""
    max_weight: Annotated[float, Field(gt=0)] = 0.25
    """Largest weight of one market, as a fraction of equity."""


class ThresholdPolicy(ForecastPolicy):
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


class TopKPolicy(ForecastPolicy):
    """Long the highest forecasts of a bar, short the lowest, in equal parts; the rest is flat."""

    kind: Literal["top_k"]
    """This policy's name."""
    k: PositiveInt = 1
    """Markets on each side; at most half of those that have a forecast."""
    long_only: bool = False
    """Whether nothing is sold short; then k may be all that have a forecast."""
    gross: PositiveFloat = 1.0
    """Sum of the absolute weights, as a fraction of equity, when k markets are held on each side."""


class WeightsPolicy(Section):
    """The forecasts are target weights already: of a portfolio that was trained by its Sharpe ratio."""

    kind: Literal["weights"]
    """This policy's name."""


PolicyConfig = Annotated[TanhPolicy | ThresholdPolicy | TopKPolicy | WeightsPolicy, Field(discriminator="kind")]


class BacktestConfig(Section):
    """How target weights become money."""

    initial_equity: PositiveFloat = 100_000.0
    """Currency at the first bar."""
    fill: Literal["next_open", "close"] = "next_open"
    """Price of a trade decided at a bar: the next bar's open, or that very bar's close."""
    fee_bps: NonNegativeFloat = 5.5
    """Exchange fee of what is taken from the book, in basis points of traded value, each side."""
    maker_fee_bps: NonNegativeFloat = 2.0
    """Exchange fee of what resting orders trade."""
    maker_share: Share = 0.0
    """Share of every trade that resting orders are assumed to fill: at the maker's fee, without spread, slippage or
    impact. Bars can't show whether they would have been filled."""
    half_spread_bps: NonNegativeFloat = 0.0
    """Half of the distance between bid and ask, paid on what is taken from the book."""
    slippage_bps: NonNegativeFloat = 2.0
    """Constant slippage in basis points of the value taken from the book, each side."""
    volatility_slippage: NonNegativeFloat = 0.0
    """Further slippage, in trailing volatilities of one bar's return."""
    impact_coefficient: NonNegativeFloat = 0.0
    """Price impact, in trailing volatilities of one bar's return, of a trade as large as a bar's market volume."""
    impact_exponent: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How the impact grows with the trade's part in the market's volume: 0.5 the square root, 1 in proportion."""
    liquidity_bars: Annotated[int, Field(ge=2)] = 168
    """Trailing bars that tell this volatility and volume."""
    no_trade_band: NonNegativeFloat = 0.0
    """Trades smaller than this fraction of equity are left out."""
    max_gross: PositiveFloat = 1.0
    """Largest sum of a bar's absolute weights: more is scaled down to it. Prices may carry what is held beyond."""
    maintenance_margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the value held that equity must exceed, at a bar's worst prices too, or all is liquidated; 0 never is."""
    liquidation_fee_bps: NonNegativeFloat = 50.0
    """Charged on the value that is liquidated, in basis points."""
    funding_rate: float | Literal["fetched"] | None = None
    """Rate that longs pay to shorts every eight hours; `fetched` charges the stored settlements of each market; null
    charges none, and the report says so."""
    calendar: CalendarName = "24/7"
    """Trading time that annualises results."""

    @model_validator(mode="after")
    def _positions_can_be_opened(self) -> Self:
        if self.max_gross * self.maintenance_margin >= 1:
            raise ValueError(
                f"max_gross {self.max_gross:g} of equity is liquidated as soon as it is held: maintenance_margin "
                f"{self.maintenance_margin:g} allows less than {1 / self.maintenance_margin:g}"
            )
        return self

    @property
    def paid_fee_bps(self) -> float:
        """Fee of a whole trade, the maker's and the taker's part together."""
        return (1 - self.maker_share) * self.fee_bps + self.maker_share * self.maker_fee_bps

    @property
    def paid_spread_bps(self) -> float:
        """Half-spread of a whole trade, of which a part is taken from the book."""
        return (1 - self.maker_share) * self.half_spread_bps

    @property
    def paid_slippage_bps(self) -> float:
        """Constant slippage of a whole trade, of which a part is taken from the book."""
        return (1 - self.maker_share) * self.slippage_bps

    @property
    def cost_rate(self) -> float:
        """Cost of a trade as a fraction of its value, less what depends on volatility and on its size."""
        return (self.paid_fee_bps + self.paid_spread_bps + self.paid_slippage_bps) / 1e4
