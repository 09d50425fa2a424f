from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from flashtrader import config
from flashtrader.config import Experiment, Section, ThresholdPolicy, known_keys, load_config, to_yaml
from flashtrader.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
SMALLEST = {"data": {"symbols": ["BTCUSDT"]}}


def write(tmp_path: Path, settings: object) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return path


def refusal(tmp_path: Path, settings: object, *overrides: str) -> str:
    path = write(tmp_path, settings)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_there_are_configs_for_the_markets_and_for_a_smoke_test() -> None:
    names = {path.relative_to(path.parents[len(path.parts) - 2 - path.parts.index("configs")]).name for path in CONFIGS}
    assert {"btc-hourly.yaml", "crypto-hourly.yaml", "btc-minute.yaml", "demo.yaml", "returns.yaml"} <= names
    assert {"candles.yaml", "candles-multiscale.yaml"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    experiment = load_config(path)
    assert experiment.name == path.stem
    assert load_config(write(tmp_path, to_yaml(experiment))) == experiment


def test_a_config_needs_only_its_symbols(tmp_path: Path) -> None:
    experiment = load_config(write(tmp_path, SMALLEST))
    assert experiment.data.interval == "60"
    assert experiment.policy.kind == "tanh"
    assert experiment.name == "experiment"


def test_a_date_may_be_written_without_hyphens(tmp_path: Path) -> None:
    experiment = load_config(write(tmp_path, SMALLEST), ["data.start=20240131"])
    assert experiment.data.start == datetime(2024, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("number", ["2024", "1704067200000"])
def test_a_number_is_no_date(tmp_path: Path, number: str) -> None:
    """Read as seconds since 1970, `start: 2024` would be the whole history, and nobody would know."""
    for override in (f"data.start={number}", f"data.end={number}", f"split.test={number}"):
        key = override.partition("=")[0]
        told = f"{key}: {number!r} is not a date such as 2024-01-31 or 2024-01-31T12:00"
        assert refusal(tmp_path, SMALLEST, override).endswith(told)  # a fraction below 1 would do, too


def test_values_are_coerced_by_annotation(tmp_path: Path) -> None:
    text = (
        "data: {symbols: [BTC], interval: 60, start: 2021-06-01}\ntraining: {learning_rate: 6e-4}\npolicy: {scale: 3}"
    )
    experiment = load_config(write(tmp_path, text))
    assert experiment.data.interval == "60"
    assert experiment.data.start == datetime(2021, 6, 1, tzinfo=UTC)
    assert experiment.training.learning_rate == 6e-4


def test_what_only_candles_have_is_refused_elsewhere(tmp_path: Path) -> None:
    for override in ("panel.multiscale=[60]", "model.distribution=student_t", "model.volume_head=true"):
        key = override.partition("=")[0]
        assert refusal(tmp_path, SMALLEST, override) == f"{key}: only family candles takes it, not returns"
        experiment = load_config(
            write(tmp_path, SMALLEST), ["model.family=candles", "panel.target.kind=next_candle", override]
        )
        assert experiment.panel.multiscale in ((), ("60",))


BOOKS = (
    "data: {symbols: [BTC], kind: books}\npanel: {target: {kind: direction}}\n"
    "model: {family: orderbook}\ntraining: {loss: cross_entropy}"
)


@pytest.mark.parametrize(
    ("text", "override", "reason"),
    [
        (SMALLEST, "data.levels=5", "only kind books takes it, not bars"),
        (SMALLEST, "panel.max_gap_ms=5", "only kind books takes it, not bars"),
        (SMALLEST, "data.noise_only=true", "only source simulated takes it, not bybit"),
        (SMALLEST, "training.volume_weight=0.5", "only family candles takes it, not returns"),
        (BOOKS, "panel.features=[rsi_14]", "only kind bars takes it, not books"),
        (BOOKS, "panel.max_gap_bars=5", "only kind bars takes it, not books"),
        (BOOKS, "data.interval=5", "only kind bars takes it, not books"),
    ],
)
def test_a_key_without_effect_is_refused_and_the_defaults_of_a_run_are_not(
    tmp_path: Path, text: str, override: str, reason: str
) -> None:
    assert refusal(tmp_path, text, override) == f"{override.partition('=')[0]}: {reason}"
    experiment = load_config(write(tmp_path, text))
    assert load_config(write(tmp_path, to_yaml(experiment))) == experiment


WALK = {"train": 100, "validation": 20, "test": 30}


def test_a_walk_forward_steps_by_its_test_unless_told(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST | {"split": {"walk_forward": WALK}})
    walk = load_config(path).split.walk_forward
    assert walk is not None
    assert (walk.step_bars, walk.mode, walk.warm_start) == (30, "expanding", False)
    shorter = load_config(path, ["split.walk_forward.step=10"]).split.walk_forward
    assert shorter is not None
    assert shorter.step_bars == 10
    assert load_config(path, ["split.walk_forward=null", "split.test=0.2"]).split.walk_forward is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"split": {"walk_forward": {"train": 1, "test": 1}}},
            "split.walk_forward.validation: missing; it has no default",
        ),
        (
            {"split": {"walk_forward": WALK | {"step": 31}}},
            "split.walk_forward: step (31) is longer than test (30): the bars between would have no forecast",
        ),
        (
            {"split": {"walk_forward": WALK, "validation": 0.2}},
            "split: validation: walk_forward says how long each part is; leave the one or the other out",
        ),
        (
            {"split": {"train": "2024-02-01", "validation": "2024-01-01", "test": "2024-03-01"}},
            "split: train must begin before validation",
        ),
        ({"training": {"seeds": [1, 1]}}, "training.seeds: 1 is listed twice"),
        ({"training": {"seeds": [-1]}}, "training.seeds.0: input should be greater than or equal to 0"),
        (
            {
                "split": {"walk_forward": WALK},
                "model": {"family": "candles"},
                "panel": {"target": {"kind": "next_candle"}},
            },
            "split.walk_forward: of several models, forecasts of returns and weights are stitched and averaged; what "
            "family candles answers is neither; leave it out",
        ),
    ],
)
def test_what_can_t_be_walked_or_averaged_is_one_line(tmp_path: Path, more: dict[str, object], message: str) -> None:
    assert refusal(tmp_path, SMALLEST | more) == message


def test_a_plain_model_has_no_seeds(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST | {"training": {"seeds": [0, 1]}})
    assert load_config(path).has_members
    assert not load_config(path, ["model.family=ridge"]).has_members
    assert not load_config(path, ["training.seeds=[]"]).has_members


def test_overrides_win_and_choose_a_policy(tmp_path: Path) -> None:
    overrides = ["model.width=32", "model.context_bars=null", "policy.kind=threshold", "policy.short_below=-0.1"]
    experiment = load_config(write(tmp_path, SMALLEST), overrides)
    assert experiment.model.width == 32
    assert experiment.model.context_bars is None
    assert experiment.policy == ThresholdPolicy(kind="threshold", short_below=-0.1)


def test_context_and_warm_up_follow_the_segment_unless_given(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    for settings, context, warmup in (("64", 64, 50), ("16", 16, 16), ("null", 100, 50)):
        experiment = load_config(path, [f"model.context_bars={settings}", "training.segment_bars=100"])
        assert (experiment.context_bars, experiment.warmup_bars) == (context, warmup)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SMALLEST | {"model": {"widht": 8}}, "model.widht: unknown key; the nearest is model.width"),
        (SMALLEST | {"modle": {}}, "modle: unknown key; the nearest is model"),
        ({}, "data: missing; it has no default"),
        ({"data": {}}, "data.symbols: missing; it has no default"),
        ({"data": {"symbols": []}}, "data.symbols: tuple should have at least 1 item after validation, not 0"),
        ({"data": {"symbols": ["A", "A"]}}, "data.symbols: A is listed twice"),
        (
            {"data": {"symbols": ["A"], "interval": "7"}},
            "data.interval: input should be '1', '3', '5', '15', '30', '60', '120', '240', '360', '720', 'D', 'W' or "
            "'M'",
        ),
        (
            {"data": {"symbols": ["A"], "start": "soon"}},
            "data.start: 'soon' is not a date such as 2024-01-31 or 2024-01-31T12:00",
        ),
        (
            {"data": {"symbols": ["A"], "start": "2024-02-01", "end": "2024-01-01"}},
            "data: start 2024-02-01 00:00 is not before end 2024-01-01 00:00",
        ),
        (SMALLEST | {"model": {"width": 30, "heads": 4}}, "model: heads (4) must divide width (30)"),
        (
            SMALLEST | {"model": {"width": 12, "heads": 4}},
            "model: width / heads is 3, but rotary positions need an even number",
        ),
        (
            SMALLEST | {"split": {"validation": 0.6, "test": 0.4}},
            "split: validation and test leave no bars for training: their sum must be below 1",
        ),
        (
            SMALLEST | {"split": {"test": "2024-01-01"}},
            "split: give validation and test both as fractions or both as dates",
        ),
        (
            SMALLEST | {"training": {"segment_bars": 64, "warmup_bars": 64}},
            "training: warmup_bars (64) must be below segment_bars (64)",
        ),
        (
            SMALLEST | {"training": {"learning_rate": float("nan")}},
            "training.learning_rate: input should be a finite number",
        ),
        (
            SMALLEST | {"policy": {"kind": "threshold", "scale": 1}},
            "policy.scale: unknown key; the nearest is policy.hold",
        ),
        (
            SMALLEST | {"policy": {"kind": "top_k", "long_above": 1}},
            "policy.long_above: unknown key; the nearest is policy.long_only",
        ),
        ({"data": {"symbols": "BTCUSDT"}}, "data.symbols: expected a list, such as [BTCUSDT, ETHUSDT]"),
        (
            SMALLEST | {"name": 221 * "x"},
            "name: 221 letters; take 220 at most, for the names of files begin with it",
        ),
        (
            SMALLEST | {"name": 191 * "x", "training": {"seeds": [1, 2]}},
            "name: 191 letters; take 190 at most, for the names of files begin with it",
        ),
        (
            SMALLEST | {"name": "my run"},
            "name: use letters, digits, dots, dashes and underscores, with a letter or digit first",
        ),
        (
            SMALLEST | {"policy": {"kind": "thresh"}},
            "policy: input tag 'thresh' found using 'kind' does not match any of the expected tags: 'tanh', "
            "'threshold', 'top_k', 'weights'",
        ),
        ({"data": 1}, "data: input should be a valid dictionary"),
        ("data: [", "not valid YAML (line 1: expected the node content, but found '<stream end>')"),
        ("- 1", "expected sections such as `data:` and `model:`, found list"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_key(tmp_path: Path, settings: object, message: str) -> None:
    assert refusal(tmp_path, settings) == message


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    assert refusal(tmp_path, SMALLEST | {"model": {"widht": 1}, "split": {"tset": 0.1}}) == (
        "split.tset: unknown key; the nearest is split.test; model.widht: unknown key; the nearest is model.width"
    )


def test_choosing_another_policy_drops_the_keys_of_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST | {"policy": {"kind": "tanh", "scale": 3.0, "max_weight": 0.1}})
    assert load_config(path, ["policy.kind=threshold"]).policy == ThresholdPolicy(kind="threshold")
    assert load_config(path, ["policy.kind=tanh"]).policy == load_config(path).policy


def test_an_override_counts_whatever_the_order_and_whether_the_kind_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST | {"policy": {"scale": 3.0}, "panel": {"target": {"horizon_bars": 5}}})
    named = load_config(path, ["policy.kind=tanh", "panel.target.kind=log_return"])
    assert (named.policy, named.panel.target) == (load_config(path).policy, load_config(path).panel.target)
    overrides = ["policy.long_above=0.1", "policy.kind=threshold"]
    for order in (overrides, overrides[::-1]):
        assert load_config(path, order).policy == ThresholdPolicy(kind="threshold", long_above=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.kind=books", "data.source=yahoo"], "data: kind books goes with source bybit or file, not yahoo"),
        (
            ["model.family=portfolio", "panel.target.kind=fill_return", "training.loss=sharpe", "policy.kind=weights",
             "training.labels=last"],
            "training.labels: sharpe is learned from bars in a row; take labels: all",
        ),
        (["data.kind=books"], "data.kind: family returns reads bars, not books"),
        (
            ["model.family=orderbook", "panel.target.kind=direction", "training.loss=cross_entropy"],
            "data.kind: family orderbook reads books, not bars",
        ),
        (
            ["training.segment_bars=99", "training.distributed=ddp", "training.context_parallel=2"],
            "training: segment_bars (99) must be a multiple of context_parallel (2)",
        ),
        (
            ["training.segment_bars=512", "training.distributed=ddp", "training.context_parallel=4",
             "model.context_bars=256"],
            "training.context_parallel: of 4 processes each holds 128 bars of a segment, fewer than the 255 earlier "
            "ones that a window of 256 sees; lower it or model.context_bars, or raise training.segment_bars",
        ),
        (
            ["model.context_bars=200", "training.segment_bars=100"],
            "model.context_bars (200) is longer than training.segment_bars (100): no bar of a segment would see all "
            "of its context; lower the one or raise the other",
        ),
        (
            ["model.attn_implementation=eager"],
            "model: attn_implementation: only for backbone hf; backbone grid takes model.attention",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    assert refusal(tmp_path, SMALLEST, *overrides) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width", "--set model.width: write it as section.key=value"),
        ("data.symbols.x=1", "--set data.symbols.x=1: symbols is not a section"),
        (
            "model.width=[",
            "--set model.width=[: not valid YAML (line 1: expected the node content, but found '<stream end>')",
        ),
        ("modle.width=1", "modle: unknown key; the nearest is model"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(tmp_path, SMALLEST, override) == message


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: can't be read (No such file or directory); give the path of a YAML file"


def test_every_key_is_documented() -> None:
    sections = [value for value in vars(config).values() if isinstance(value, type) and issubclass(value, Section)]
    undocumented = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert len(sections) > 8
    assert undocumented == []
    assert len(list(known_keys())) > 50
    assert issubclass(Experiment, BaseModel)
