"""Numbers as people read them."""

import math
from dataclasses import fields

import pytest

from flashtrader.backtest.metrics import Metrics
from flashtrader.report.formats import counted, estimate, fixed, percent, plain, significant
from flashtrader.report.metric_names import METRIC_NAMES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fixed(1234.56, 1), "1,234.6"),
        (fixed(-0.5, 2), "\N{MINUS SIGN}0.50"),
        (fixed(-0.0001, 2), "0.00"),
        (fixed(0.0001, 2, signed=True), "0.00"),
        (fixed(math.inf, 2), "n/a"),
        (percent(0.1234), "12.3%"),
        (percent(0.1234, signed=True), "+12.3%"),
        (percent(-0.1234, 0, signed=True), "\N{MINUS SIGN}12%"),
        (percent(math.nan), "n/a"),
        (significant(0.0123456), "0.0123"),
        (significant(-0.5), "\N{MINUS SIGN}0.500"),
        (significant(123.456), "123"),
        (significant(12345.6), "12,346"),
        (significant(1234567.8), "1.2e+06"),
        (significant(0.0), "0.00"),
        (significant(0.0000123456), "1.2e\N{MINUS SIGN}05"),
        (significant(math.nan), "n/a"),
        (estimate(0.3071, 0.023, 3), "+0.307 ± 0.045"),
        (estimate(math.nan, math.nan, 3), "n/a"),
        (counted(1, "bar"), "1 bar"),
        (counted(1_000, "bar"), "1,000 bars"),
        (plain(0.30000000000000004), "0.3"),
        (plain(-1500.0), "\N{MINUS SIGN}1,500"),
    ],
)
def test_numbers_as_text(text, expected):
    assert text == expected


def test_every_metric_has_a_name_and_a_definition():
    assert {name.key for name in METRIC_NAMES} == {field.name for field in fields(Metrics)}
    assert all(name.label and name.definition for name in METRIC_NAMES)


def test_an_undefined_figure_is_not_available_in_every_format():
    assert all(name.text(math.nan).startswith("n/a") for name in METRIC_NAMES)
