"""How sure a backtest is, in the command's tables."""

from typing import TYPE_CHECKING

from flashtrader.cli.console import Table

if TYPE_CHECKING:
    from flashtrader.backtest.assessment import Assessment


def assessment_tables(assessment: "Assessment") -> list[Table]:
    """Return what the figures of a backtest, and the forecasts behind it, are worth."""
    from flashtrader.report.significance_tables import difference_rows, sharpe_rows, skill_rows

    ratio, interval, *rest = sharpe_rows(assessment.significance)
    beside = [
        (f"{name}: difference, 95 %", f"{difference} ({bounds})")
        for name, difference, bounds in difference_rows(assessment.significance)
        if name != "Cash"
    ]
    tables = [Table("How sure this is", ("", "strategy"), [ratio, interval, *beside, *rest])]
    if assessment.forecast is not None:
        tables.append(Table("What its forecasts were worth", ("", "all markets"), skill_rows(assessment.forecast)))
    return tables
