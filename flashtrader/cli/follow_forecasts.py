"""What `flashtrader predict --follow` prints and writes: a forecast of every bar as it closes."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flashtrader.cli.console import say

if TYPE_CHECKING:
    from flashtrader.run import Run


def follow_bars(
    run: "Run", data_dir: Path, base_url: str | None, num_bars: int | None, out: Path | None, as_json: bool
) -> None:
    """Fetch, forecast and print bars until `num_bars` are forecast, or for ever; write them all to live.parquet."""
    import pandas as pd

    from flashtrader.errors import ConfigError
    from flashtrader.files import finite
    from flashtrader.forecasting.follow import Follower, seconds_to_next_close
    from flashtrader.forecasting.forecast import write_forecasts
    from flashtrader.interval import Interval
    from flashtrader.market.fetch import fetch
    from flashtrader.market.sources.opening import open_source
    from flashtrader.market.store import Store

    data = run.experiment.data
    if data.kind == "books":
        raise ConfigError(
            f"{run.path}: --follow reads bars as they close, and this run reads an order book; leave it out"
        )
    interval, store = Interval(data.interval), Store(data_dir)
    source = None if data.source == "file" else open_source(data, base_url=base_url)
    follower = Follower(run, data_dir)
    followed: list[pd.DataFrame] = []
    while True:
        if source is not None:
            for report in fetch(source, store, data.symbols, interval):
                if report.failed is not None:
                    say(f"{report.failed}; trying again")
        update = follower.update()
        for moment, row in update.iterrows():
            time_text = f"{moment:%Y-%m-%dT%H:%MZ}"
            if as_json:
                typer.echo(json.dumps(finite({"time": time_text, "forecasts": row.to_dict()}), allow_nan=False))
            else:
                typer.echo(f"{time_text}  " + "  ".join(f"{symbol} {value:+.3%}" for symbol, value in row.items()))
        if len(update):
            followed.append(update)
            write_forecasts(out or run.path / "live.parquet", pd.concat(followed))
        if num_bars is not None and sum(map(len, followed)) >= num_bars:
            return
        time.sleep(seconds_to_next_close(interval, time.time_ns() // 1_000_000))
