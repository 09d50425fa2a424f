"""`flashtrader predict --attention`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashtrader.cli.console import Table, say, show

if TYPE_CHECKING:
    from flashtrader.forecasting.attention_maps import AttentionMap
    from flashtrader.forecasting.attention_reach import Profile, Reach
    from flashtrader.run import Run


def show_attention(run: "Run", data_dir: Path, bars: str, out: Path | None, as_json: bool) -> None:
    """Write where the model looks at the chosen bars, with pictures, and show how far back that is."""
    from flashtrader.files import write_json
    from flashtrader.forecasting.attention_maps import look, write_map
    from flashtrader.forecasting.attention_reach import mean_profiles, profiles, reaches

    directory = out or run.path / "attention"
    written: list[dict[str, Any]] = []
    of_bars: list[dict[str, Profile]] = []
    for attention in look(run, data_dir, bars):
        of_bars.append(profiles(attention))
        written.append(
            {
                "time": attention.time,
                "weights": str(write_map(directory, attention)),
                "picture": str(_draw_bar(directory, attention, of_bars[-1])),
                "forecasts": attention.forecasts,
            }
        )
        say(f"{attention.time}  {written[-1]['picture']}")
    mean = mean_profiles(of_bars)
    reach = reaches(mean)
    payload = {
        "run": str(run.path),
        "directory": str(directory),
        "bars": written,
        "pictures": [str(path) for path in _draw_mean(directory, run, attention.entities, mean, len(of_bars))],
        "layers": {name: [asdict(head) for head in heads] for name, heads in reach.items() if name != "rollout"},
        "rollout": asdict(reach["rollout"][0]),
    }
    write_json(directory / "summary.json", payload)
    which = f"the mean of {len(written):,} bars" if len(written) > 1 else written[0]["time"]
    notes = [*_in_words(mean, reach), f"weights and pictures: {directory}"]
    show([_table(f"How far back {run.path} looks: {which}", mean, reach)], payload, as_json, notes)


def _draw_bar(directory: Path, attention: "AttentionMap", profiles: "Mapping[str, Profile]") -> Path:
    from flashtrader.forecasting.attention_reach import ages
    from flashtrader.report.attention_map_plots import plot_bar
    from flashtrader.report.plots import write_png

    path = directory / f"{attention.file_name}.png"
    rollout_T = profiles["rollout"].by_age[0]
    write_png(plot_bar(attention.times_ms, attention.prices, ages(profiles), rollout_T), path)
    return path


def _draw_mean(
    directory: Path, run: "Run", names: Sequence[str], mean: "Mapping[str, Profile]", num_bars: int
) -> list[Path]:
    """Draw what holds over all bars: by age, and where there are several entities by entity or level of the book."""
    from flashtrader.forecasting.attention_reach import ages, entities
    from flashtrader.report.attention_map_plots import plot_ages, plot_entities, plot_levels
    from flashtrader.report.plots import write_png

    figures = {"ages": plot_ages(ages(mean), num_bars)}
    if shares := entities(mean):
        of_heads = {name: shares_HEE.mean(axis=0) for name, shares_HEE in shares.items()}
        figures["entities"] = plot_entities(of_heads, names, num_bars)
        if run.experiment.data.kind == "books":
            of_levels = {name: shares_HEE.mean(axis=1) for name, shares_HEE in shares.items()}
            figures["levels"] = plot_levels(of_levels, names, num_bars)
    paths = {directory / f"{name}.png": figure for name, figure in figures.items()}
    for path, figure in paths.items():
        write_png(figure, path)
    return list(paths)


def _table(title: str, mean: "Mapping[str, Profile]", reach: "Mapping[str, list[Reach]]") -> Table:
    """Return a row for every head that looks back, and one for the rollout."""
    import math

    from flashtrader.forecasting.attention_reach import ages
    from flashtrader.report.formats import fixed, percent

    rows = [
        (
            f"{name.removeprefix('layer ')} · {place}" if name != "rollout" else name,
            fixed(head.mean_bars, 1),
            f"{head.median_bars:,}",
            fixed(math.exp(head.entropy_nats), 0),
            *(percent(band.share, 0) for band in head.bands),
        )
        for name in (*ages(mean), "rollout")
        for place, head in enumerate(reach[name], start=1)
    ]
    bands = [
        f"{band.from_bars:,}" if band.from_bars == band.to_bars else f"{band.from_bars:,}–{band.to_bars:,}"
        for band in reach["rollout"][0].bands
    ]
    return Table(title, ("layer · head", "mean", "median", "keys", *bands), rows)


def _in_words(mean: "Mapping[str, Profile]", reach: "Mapping[str, list[Reach]]") -> list[str]:
    from flashtrader.forecasting.attention_reach import ages, quantile_age
    from flashtrader.report.formats import fixed, percent

    by_age = ages(mean)
    heads = [(name, place, head) for name in by_age for place, head in enumerate(reach[name], start=1)]
    name, place, furthest = max(heads, key=lambda item: item[2].mean_bars)
    seen_bars = by_age[name].shape[1]
    rollout_T = mean["rollout"].by_age[0]
    return [
        f"Through all layers (rollout), {percent(rollout_T[0])} of what reaches the forecast is from the bar itself, "
        f"half from at most {quantile_age(rollout_T, 0.5):,} bars back, a tenth from more than "
        f"{quantile_age(rollout_T, 0.9):,}.",
        f"{name.capitalize()}, head {place} looks back furthest: {fixed(furthest.mean_bars, 1)} bars on average; "
        f"one that looked at its {seen_bars:,} bars alike, {fixed((seen_bars - 1) / 2, 1)}.",
        "mean, median: bars back. keys: as many, alike, would have the same entropy. The rest: share of the weight by "
        "bars back. Weights say what is read, not what is made of it.",
    ]
