"""How sure a backtest is, and what forecasts are worth, in the commands' tables."""

from typing import TYPE_CHECKING

from flashtrader.cli.console import Table

if TYPE_CHECKING:
    from flashtrader.backtest.assessment import Assessment
    from flashtrader.forecasting.skill import ForecastSkill


def assessment_tables(assessment: "Assessment") -> list[Table]:
    """Return what the figures of a backtest, and the forecasts behind it, are worth."""
    from flashtrader.report.significance_tables import difference_rows, sharpe_rows

    ratio, interval, *rest = sharpe_rows(assessment.significance)
    beside = [
        (f"{name}: difference, 95 %", f"{difference} ({bounds})")
        for name, difference, bounds in difference_rows(assessment.significance)
        if name != "Cash"
    ]
    tables = [Table("How sure this is", ("", "strategy"), [ratio, interval, *beside, *rest])]
    return tables if assessment.forecast is None else [*tables, skill_table(assessment.forecast)]


def skill_table(skill: "ForecastSkill") -> Table:
    """Return what forecasts were worth over all markets."""
    from flashtrader.report.significance_tables import skill_rows

    return Table("What the forecasts are worth", ("", "all markets"), skill_rows(skill))
