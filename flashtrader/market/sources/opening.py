"""The source that a command or a config names."""

from pathlib import Path

from flashtrader.config import DataConfig
from flashtrader.errors import ConfigError
from flashtrader.market.fetch_funding import FundingSource
from flashtrader.market.sources import Source


def open_source(data: DataConfig, path: Path | None = None, base_url: str | None = None) -> Source:
    """Return where the bars of `data` come from.

    path: of the files, for the source `file`. base_url: another host that speaks the API of Bybit or Yahoo.
    Raises ConfigError for what does not belong to the source, and for files without a path.
    """
    _check_owners(
        data,
        ("--path", path is not None, ("file",)),
        ("--base-url", base_url is not None, ("bybit", "yahoo")),
        ("--noise-only", data.noise_only, ("simulated",)),
        ("--category spot", data.category == "spot", ("bybit",)),
    )
    match data.source:
        case "bybit":
            from flashtrader.market.sources.bybit import BybitSource

            return BybitSource(data.category, base_url)
        case "yahoo":
            from flashtrader.market.sources.yahoo import YahooSource

            return YahooSource(base_url)
        case "file":
            from flashtrader.market.sources.files import FileSource

            if path is None:
                raise ConfigError("--source file needs --path: a Parquet or CSV file, or a directory of them")
            return FileSource(path)
        case "simulated":
            from flashtrader.market.sources.simulated import SimulatedSource

            return SimulatedSource(noise_only=data.noise_only)


def open_funding(data: DataConfig, path: Path | None = None, base_url: str | None = None) -> FundingSource:
    """Return where the funding of `data` comes from. Raises ConfigError for what does not belong to the source."""
    if data.category == "spot":
        raise ConfigError("--kind funding is of perpetuals; --category spot has none")
    _check_owners(
        data,
        ("--kind funding", True, ("bybit", "file")),
        ("--path", path is not None, ("file",)),
        ("--base-url", base_url is not None, ("bybit",)),
    )
    if data.source == "bybit":
        from flashtrader.market.sources.bybit_funding import BybitFunding

        return BybitFunding(base_url)
    from flashtrader.market.sources.funding_files import FundingFile

    if path is None:
        raise ConfigError("--source file needs --path: one file of settlements")
    return FundingFile(path)


def _check_owners(data: DataConfig, *options: tuple[str, bool, tuple[str, ...]]) -> None:
    """Raise ConfigError for an option that is given and is of other sources; each: its name, given, its sources."""
    for option, given, owners in options:
        if given and data.source not in owners:
            raise ConfigError(f"{option} goes with --source {' or '.join(owners)}, not {data.source}")
