"""Numbers as people read them: a true minus sign, few digits, n/a for what is not known."""

import math

UNKNOWN = "n/a"


def fixed(value: float, digits: int, *, signed: bool = False) -> str:
    """Return 1234.5 as 1,234.5 with that many digits after the point, and a plus before a gain where `signed`."""
    if not math.isfinite(value):
        return UNKNOWN
    rounded = round(value, digits) + 0.0  # a negative zero becomes zero
    return _typeset(f"{rounded:{'+' if signed and rounded else ''},.{digits}f}")


def percent(fraction: float, digits: int = 1, *, signed: bool = False) -> str:
    """Return 0.123 as 12.3%."""
    text = fixed(fraction * 100, digits, signed=signed)
    return text if text == UNKNOWN else f"{text}%"


def significant(value: float, digits: int = 3) -> str:
    """Return 0.0123456 as 0.0123, and whole thousands; below 0.001 and from a million on 1.2e−05, a digit shorter."""
    if not math.isfinite(value):
        return UNKNOWN
    if value and not 1e-3 <= abs(value) < 1e6:
        return _typeset(f"{value:.{digits - 2}e}")
    return _typeset(f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip("."))


def estimate(value: float, error: float, digits: int) -> str:
    """Return +0.307 ± 0.045: a value and the half width of its 95 % interval, given one standard error."""
    text = fixed(value, digits, signed=True)
    return text if text == UNKNOWN else f"{text} ± {fixed(1.96 * error, digits)}"


def counted(number: int, noun: str) -> str:
    """Return `1 bar`, `1,000 bars`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain(value: float) -> str:
    """Return the shortest text of a number on an axis: 0.5, 1,000, 12."""
    return _typeset(f"{value:,.6g}")


def _typeset(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
