"""What a backtest charges, in a line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashtrader.config import BacktestConfig


def costs_in_words(config: "BacktestConfig") -> str:
    """Return the costs of trading a side, without those that are not charged."""
    parts = [f"{config.fee_bps:g} bp fee"]
    if config.maker_share:
        parts = [
            f"{config.fee_bps:g} bp taker's and {config.maker_fee_bps:g} bp maker's fee ({config.maker_share:.0%})"
        ]
    if config.half_spread_bps:
        parts.append(f"{config.half_spread_bps:g} bp half-spread")
    by_volatility = f" + {config.volatility_slippage:g} σ" if config.volatility_slippage else ""
    parts.append(f"{config.slippage_bps:g} bp{by_volatility} slippage")
    if config.impact_coefficient:
        parts.append(f"{config.impact_coefficient:g} σ · participation^{config.impact_exponent:g} impact")
    return f"{', '.join(parts[:-1])} and {parts[-1]} a side"


def funding_in_words(config: "BacktestConfig") -> str:
    """Return which funding is charged."""
    match config.funding_rate:
        case None:
            return "no funding charged"
        case "fetched":
            return "funding as settled"
        case rate:
            return f"funding {rate:+.4%} every 8 hours"
