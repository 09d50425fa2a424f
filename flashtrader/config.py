"""The YAML of an experiment: every section, typed, strict, documented under each field. Loads no torch.

A misspelt key is an error that names its dotted path and the nearest key that exists. Values are coerced by
annotation, so `6e-4` is a number and `60` a text wherever the schema says so.
"""

import difflib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from flashtrader.errors import ConfigError
from flashtrader.interval import CalendarName, IntervalCode


def utc(moment: object) -> object:
    """Return a date or ISO text as a UTC time; leave anything else to the schema.

    A bare number is read as its text: 20240131 is a date, and 2024 none. The schema would take both for seconds since
    1970.
    """
    if isinstance(moment, int | float):
        moment = str(moment)
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"{moment!r} is not a date such as 2024-01-31 or 2024-01-31T12:00") from None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if isinstance(moment, datetime):
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment


def _unique(symbols: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice")
    return symbols


UtcTime = Annotated[datetime, BeforeValidator(utc)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Symbols = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)]
SourceName = Literal["bybit", "yahoo", "file", "simulated"]


class Section(BaseModel):
    """One section of the YAML file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
        validate_default=True,
        hide_input_in_errors=True,
    )


class DataConfig(Section):
    """Which stored bars the experiment uses."""

    symbols: Symbols
    """Markets, in the order of the forecasts' columns."""
    kind: Literal["bars", "books"] = "bars"
    """Bars, or snapshots of the order book, whose rows are events: `interval` does not apply to them."""
    source: SourceName = "bybit"
    """Where `fetch` got them from."""
    category: Literal["linear", "spot"] = "linear"
    """Bybit only: USDT perpetuals or the spot market."""
    noise_only: bool = False
    """Simulated only: the twin market in which nothing can be forecast."""
    interval: Annotated[IntervalCode, BeforeValidator(str)] = "60"
    """Bar length: minutes, or D, W, M."""
    levels: PositiveInt = 20
    """Books only: price levels of each side, the best first; a deeper stored book serves a shallower one."""
    start: UtcTime | None = None
    """First bar; null is the oldest one stored."""
    end: UtcTime | None = None
    """Bars that open before this time; null is everything stored."""

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.start and self.end and self.start >= self.end:
            raise ValueError(f"start {self.start:%Y-%m-%d %H:%M} is not before end {self.end:%Y-%m-%d %H:%M}")
        return self

    @model_validator(mode="after")
    def _books_are_recorded(self) -> Self:
        if self.kind == "books" and self.source not in ("bybit", "file"):
            raise ValueError(f"kind books goes with source bybit or file, not {self.source}")
        return self


class LogReturnTarget(Section):
    """log(close[i + horizon] / close[i]) of every market: families returns and portfolio, and the plain models."""

    kind: Literal["log_return"]
    """This target's name."""
    horizon_bars: PositiveInt = 24
    """Bars from the decision to the outcome."""


class FillReturnTarget(Section):
    """Simple return of every market from one decision's fill to the next's: for weights learned directly."""

    kind: Literal["fill_return"]
    """This target's name."""

    @property
    def horizon_bars(self) -> int:
        """Bars from the decision to the outcome: filled at the next open, held to the one after."""
        return 2


class NextCandleTarget(Section):
    """The next candle: logarithms of its prices less this close's, of one plus its volume less this one's."""

    kind: Literal["next_candle"]
    """This target's name."""

    @property
    def horizon_bars(self) -> int:
        """Bars from the decision to the outcome."""
        return 1


class DirectionTarget(Section):
    """Whether the mid-price is up, flat or down after some events: family orderbook."""

    kind: Literal["direction"]
    """This target's name."""
    horizon_bars: PositiveInt = 50
    """Snapshots from the decision to the outcome."""
    threshold_bps: NonNegativeFloat = 0.0
    """Moves of at most this many basis points, either way, are flat."""


TargetConfig = Annotated[
    LogReturnTarget | FillReturnTarget | NextCandleTarget | DirectionTarget, Field(discriminator="kind")
]


class PanelConfig(Section):
    """What the model sees of each market at every bar."""

    features: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)] = (
        "log_return",
        "volatility_24",
        "volume_ratio_24",
        "price_ratio_24",
        "rsi_14",
    )
    """Causal features; a number in a name is its window in bars."""
    target: TargetConfig = LogReturnTarget(kind="log_return")
    """What is forecast."""
    multiscale: Annotated[tuple[Annotated[IntervalCode, BeforeValidator(str)], ...], AfterValidator(_unique)] = ()
    """Family candles: longer intervals whose newest closed candle is a token beside every bar."""
    max_gap_bars: NonNegativeInt = 3
    """Missing bars in a row that features, targets and segments may bridge; a longer outage splits the history."""
    max_gap_ms: PositiveInt = 10_000
    """Books only: milliseconds between two snapshots that count as neighbours; a longer silence splits the history."""
    clip: PositiveFloat = 10.0
    """Scaled features are limited to this many standard deviations either way."""

    @field_validator("target", mode="before")
    @classmethod
    def _log_return_unless_named(cls, target: object) -> object:
        return {"kind": "log_return", **target} if isinstance(target, dict) else target


class SplitConfig(Section):
    """How the history is divided by time: training, then validation, then test."""

    validation: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which validation begins."""
    test: Fraction | UtcTime = 0.15
    """Share of the bars, or the date on which the test begins."""
    embargo_bars: NonNegativeInt = 0
    """Bars dropped before each boundary beside those whose target reaches across it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        match self.validation, self.test:
            case float(), float() if self.validation + self.test >= 1:
                raise ValueError("validation and test leave no bars for training: their sum must be below 1")
            case datetime(), datetime() if self.validation >= self.test:
                raise ValueError("validation must begin before test")
            case (float(), datetime()) | (datetime(), float()):
                raise ValueError("give validation and test both as fractions or both as dates")
        return self


PlainFamily = Literal["persistence", "drift", "momentum", "ridge", "dlinear", "boosting"]
Family = Literal["returns", "candles", "portfolio", "orderbook", PlainFamily]
PLAIN_FAMILIES: tuple[PlainFamily, ...] = get_args(PlainFamily)


class ModelConfig(Section):
    """The transformer, or a plain model in its place."""

    family: Family = "returns"
    """What a token is and what is predicted; the names after orderbook are plain models."""
    context_bars: PositiveInt | None = 512
    """Sliding window: each layer attends to this many bars, its own included; null is the whole segment."""
    width: PositiveInt = 64
    """Features of a token."""
    layers: PositiveInt = 4
    """Transformer blocks."""
    heads: PositiveInt = 8
    """Attention heads; they divide the width, and each gets an even share."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the output of each block's branches; never inside attention, where it would switch the fused kernels off."""
    attention: str = "auto"
    """Backend: auto, or one of those that `flashtrader bench attention` lists."""
    mixing: Literal["joint", "factorised"] = "joint"
    """Of a grid with several entities: one attention over all of it, or along time for each entity and then across."""
    backbone: Literal["grid", "hf"] = "grid"
    """The decoder: flashtrader's own, or a Llama with a window (Mistral) of the `transformers` library (extra `hf`)."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention of backbone hf, in the words of transformers."""
    distribution: Literal["point", "student_t"] = "point"
    """Family candles: whether a predictive distribution is learned beside the next candle, for sample paths."""
    volume_head: bool = False
    """Family candles: predict volume by a small network of its own instead of a row of the shared head."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.width // self.heads % 2:
            raise ValueError(f"width / heads is {self.width // self.heads}, but rotary positions need an even number")
        return self

    @model_validator(mode="after")
    def _keys_of_the_backbone(self) -> Self:
        if self.backbone == "hf":
            for key, only in (("attention", "auto"), ("dropout", 0.0), ("mixing", "joint")):
                if getattr(self, key) != only:
                    raise ValueError(f"backbone hf takes {key}: {only} and nothing else")
        elif self.attn_implementation != "sdpa":
            raise ValueError("attn_implementation: only for backbone hf; backbone grid takes model.attention")
        return self


class TrainingConfig(Section):
    """The training loop."""

    segment_bars: PositiveInt = 2_048
    """Bars in one segment."""
    labels: Literal["all", "last"] = "all"
    """Bars of a segment that are learned from: every one after the warm-up, or the last alone, one label a window."""
    warmup_bars: NonNegativeInt | None = None
    """Leading bars of a segment that only give context; null is the context, at most half the segment."""
    batch_size: PositiveInt = 8
    """Segments in one step."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one step."""
    max_steps: PositiveInt = 2_000
    """Optimiser steps."""
    learning_rate: PositiveFloat = 1e-3
    """Peak of the schedule."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """Cosine decay to a tenth of the peak, or halving whenever the validation loss stalls."""
    schedule_warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises to its peak."""
    plateau_patience: PositiveInt = 3
    """Evaluations without a better validation loss before the plateau schedule halves the rate."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decay of matrices; biases, norms and embeddings are left alone."""
    clip_norm: PositiveFloat = 1.0
    """Longest gradient that is applied whole."""
    loss: Literal["huber", "mse", "cross_entropy", "sharpe"] = "huber"
    """On targets in units of their training standard deviation; cross_entropy on directions; sharpe on weights, net of
    fee and slippage, without funding and with every trade made, whatever backtest.no_trade_band is."""
    volume_weight: NonNegativeFloat = 0.2
    """Family candles: of volume in the loss, where each price has 1."""
    evaluate_every: PositiveInt = 100
    """Steps between evaluations on the validation bars."""
    patience: PositiveInt | None = None
    """Evaluations without a better validation loss before training stops; null never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast; auto is bf16 on a GPU and fp32 on a CPU, where bf16 is slower."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU that is there."""
    seed: NonNegativeInt = 0
    """Of the weights, the segments and dropout."""
    plain_models: Annotated[tuple[PlainFamily, ...], AfterValidator(_unique)] = PLAIN_FAMILIES
    """Of a log_return target: fitted on the same rows before training, and shown beside the run in every table."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `tracking`)."""

    @model_validator(mode="after")
    def _labels_remain(self) -> Self:
        if self.warmup_bars is not None and self.warmup_bars >= self.segment_bars:
            raise ValueError(f"warmup_bars ({self.warmup_bars}) must be below segment_bars ({self.segment_bars})")
        return self


class TanhPolicy(Section):
    """Target weight = max_weight · tanh(scale · forecast)."""

    kind: Literal["tanh"]
    """This policy's name."""
    scale: PositiveFloat = 10.0
    """How fast the weight grows with the forecast."""
    max_weight: Annotated[float, Field(gt=0)] = 0.25
    """Largest weight of one market, as a fraction of equity."""


class ThresholdPolicy(Section):
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


class WeightsPolicy(Section):
    """The forecasts are target weights already: of a portfolio that was trained by its Sharpe ratio."""

    kind: Literal["weights"]
    """This policy's name."""


PolicyConfig = Annotated[TanhPolicy | ThresholdPolicy | WeightsPolicy, Field(discriminator="kind")]


class BacktestConfig(Section):
    """How target weights become money."""

    initial_equity: PositiveFloat = 100_000.0
    """Currency at the first bar."""
    fill: Literal["next_open", "close"] = "next_open"
    """Price of a trade decided at a bar: the next bar's open, or that very bar's close."""
    fee_bps: NonNegativeFloat = 5.5
    """Exchange fee in basis points of traded value, each side."""
    slippage_bps: NonNegativeFloat = 2.0
    """Spread and impact in basis points of traded value, each side."""
    no_trade_band: NonNegativeFloat = 0.0
    """Trades smaller than this fraction of equity are left out."""
    max_gross: PositiveFloat = 1.0
    """Largest sum of absolute weights; a larger row is scaled down to it."""
    funding_rate: float | None = None
    """Rate that longs pay to shorts every eight hours; null charges none, and the report says so."""
    calendar: CalendarName = "24/7"
    """Trading time that annualises results."""

    @property
    def cost_rate(self) -> float:
        """Cost of a trade, as a fraction of its value."""
        return (self.fee_bps + self.slippage_bps) / 1e4


_LEARNED: dict[str, dict[str, tuple[str, ...]]] = {
    "candles": {"next_candle": ("huber", "mse")},
    "portfolio": {"log_return": ("huber", "mse"), "fill_return": ("sharpe",)},
    "orderbook": {"direction": ("cross_entropy",)},
}
"""Targets and losses of the families that don't learn a log return."""


class Experiment(Section):
    """One YAML file: one experiment."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run directory; the file's own name unless given."""
    data: DataConfig
    """Which stored bars."""
    panel: PanelConfig = PanelConfig()
    """What the model sees."""
    split: SplitConfig = SplitConfig()
    """Training, validation and test by time."""
    model: ModelConfig = ModelConfig()
    """The transformer."""
    training: TrainingConfig = TrainingConfig()
    """The training loop."""
    policy: PolicyConfig = TanhPolicy(kind="tanh")
    """From forecasts to target weights."""
    backtest: BacktestConfig = BacktestConfig()
    """From target weights to money."""

    @field_validator("policy", mode="before")
    @classmethod
    def _tanh_unless_named(cls, policy: object) -> object:
        return {"kind": "tanh", **policy} if isinstance(policy, dict) else policy

    @model_validator(mode="after")
    def _family_fits_its_target(self) -> Self:
        family, target, loss = self.model.family, self.panel.target.kind, self.training.loss
        learned = _LEARNED.get(family, {"log_return": ("huber", "mse")})
        if target not in learned:
            raise ValueError(f"panel.target.kind: family {family} learns {' or '.join(learned)}, not {target}")
        if loss not in learned[target]:
            raise ValueError(f"training.loss: {target} of family {family} takes {' or '.join(learned[target])}")
        if (self.data.kind == "books") != (family == "orderbook"):
            raise ValueError(f"data.kind: {self.data.kind} is not what family {family} reads")
        if (self.policy.kind == "weights") != (loss == "sharpe"):
            raise ValueError("policy.kind: weights goes with training.loss: sharpe, and with nothing else")
        if loss == "sharpe" and self.training.labels == "last":
            raise ValueError("training.labels: sharpe is learned from bars in a row; take labels: all")
        of_candles = {
            "panel.multiscale": self.panel.multiscale,
            "model.distribution": self.model.distribution != "point",
            "model.volume_head": self.model.volume_head,
        }
        given = [key for key, value in of_candles.items() if value]
        if given and family != "candles":
            raise ValueError(f"{given[0]}: only family candles takes it, not {family}")
        if family in ("candles", "orderbook") and len(self.data.symbols) > 1:
            raise ValueError(f"data.symbols: family {family} reads one market; train one run for each")
        return self

    @model_validator(mode="after")
    def _context_fits_a_segment(self) -> Self:
        context, segment = self.model.context_bars, self.training.segment_bars
        if context is not None and context > segment:
            raise ValueError(
                f"model.context_bars ({context}) is longer than training.segment_bars ({segment}): no bar of a segment "
                "would see all of its context; lower the one or raise the other"
            )
        return self

    @property
    def plain_family(self) -> PlainFamily | None:
        """The family, where the model is a plain one: fitted at once and without a transformer."""
        return next((family for family in PLAIN_FAMILIES if family == self.model.family), None)

    @property
    def plain_models(self) -> tuple[PlainFamily, ...]:
        """The plain models that stand beside this experiment's own."""
        comparable = self.panel.target.kind == "log_return" and self.plain_family is None
        return self.training.plain_models if comparable else ()

    @property
    def context_bars(self) -> int:
        """Bars that each layer sees at most, in training and in forecasting."""
        return self.model.context_bars or self.training.segment_bars

    @property
    def warmup_bars(self) -> int:
        """Leading bars of a segment, or of a history, without a label or a forecast."""
        if self.training.warmup_bars is not None:
            return self.training.warmup_bars
        return min(self.context_bars, self.training.segment_bars // 2)

    @property
    def unlabelled_bars(self) -> int:
        """Leading bars of a training segment that are not learned from."""
        return self.training.segment_bars - 1 if self.training.labels == "last" else self.warmup_bars


def load_config(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment that a YAML file and `section.key=value` overrides describe.

    Raises ConfigError, naming the file and the dotted path, for anything the schema does not take.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror or error}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; give the path of a YAML file") from None
    settings = _parse_yaml(text, str(path))
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected sections such as `data:` and `model:`, found {type(settings).__name__}")
    settings.setdefault("name", path.stem)
    # First the kind of a policy or target, which decides what other keys mean.
    for override in sorted(overrides, key=lambda override: not override.partition("=")[0].endswith(".kind")):
        _apply(settings, override)
    return validate(settings, str(path))


def validate(settings: dict[str, Any], where: str) -> Experiment:
    """Return `settings` as an experiment. Raises ConfigError that begins with `where`."""
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{where}: {problems}") from None


def to_yaml(experiment: Experiment) -> str:
    """Return the whole experiment, defaults included, as YAML that `load_config` reads back."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: not valid YAML ({line}{problem})") from None


def _apply(settings: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    *sections, key = path.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
    value = _parse_yaml(text, f"--set {override}")
    unless_named = {"policy": "tanh", "target": "log_return"}.get(sections[-1] if sections else "")
    if key == "kind" and unless_named and settings.get("kind", unless_named) != value:
        settings.clear()  # another policy or target has other keys
    settings[key] = value


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"] if _is_key(part))
    match problem["type"]:
        case "extra_forbidden":
            others = [key for key in known_keys() if key != path]
            nearest = difflib.get_close_matches(path, others, n=1, cutoff=0.0)
            return f"{path}: unknown key; the nearest is {nearest[0]}"
        case "missing":
            return f"{path}: missing; it has no default"
        case "value_error":
            return f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
        case "tuple_type":
            return f"{path}: expected a list, such as [BTCUSDT, ETHUSDT]"
        case "string_pattern_mismatch":
            return f"{path}: use letters, digits, dots, dashes and underscores, with a letter or digit first"
        case _:
            return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


_UNION_TAGS = ("tanh", "threshold", "weights", "log_return", "fill_return", "next_candle", "direction")


def _is_key(part: str | int) -> bool:
    """Tell a key or position in the YAML from pydantic's names for the alternatives of a union."""
    return isinstance(part, int) or (part.isidentifier() and part not in _UNION_TAGS)


def known_keys(section: type[BaseModel] = Experiment, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key of the schema."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_of(field.annotation):
            yield from known_keys(inner, f"{prefix}{name}.")


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections_of(part)]
