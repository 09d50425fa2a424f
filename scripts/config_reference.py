"""Prints docs/configuration.md from the schema: `python scripts/config_reference.py > docs/configuration.md`."""

import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flashtrader.config import (
    BacktestConfig,
    DataConfig,
    DirectionTarget,
    FillReturnTarget,
    LogReturnTarget,
    ModelConfig,
    NextCandleTarget,
    PanelConfig,
    SplitConfig,
    TanhPolicy,
    ThresholdPolicy,
    TopKPolicy,
    TrainingConfig,
    WalkForwardConfig,
    WeightsPolicy,
)
from flashtrader.panel import features

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("data", DataConfig),
    ("panel", PanelConfig),
    ("panel.target, kind: log_return", LogReturnTarget),
    ("panel.target, kind: fill_return", FillReturnTarget),
    ("panel.target, kind: next_candle", NextCandleTarget),
    ("panel.target, kind: direction", DirectionTarget),
    ("split", SplitConfig),
    ("split.walk_forward", WalkForwardConfig),
    ("model", ModelConfig),
    ("training", TrainingConfig),
    ("policy, kind: tanh", TanhPolicy),
    ("policy, kind: threshold", ThresholdPolicy),
    ("policy, kind: top_k", TopKPolicy),
    ("policy, kind: weights", WeightsPolicy),
    ("backtest", BacktestConfig),
)
HEAD = """# Configuration

One YAML file describes one experiment; `--set section.key=value` overrides any key. Every key but `data.symbols` has a
default. A misspelt key is an error that names the nearest one. `name`, at the top, names the run directory; it is the
file's own name unless given. This page is made from the schema.
"""


def reference() -> str:
    """Return the page as Markdown."""
    about_features = inspect.cleandoc(features.__doc__ or "").partition("\n")[2].strip()
    sections = (_section(name, section) for name, section in SECTIONS)
    return "\n".join([HEAD, *sections, "## Features\n", f"```text\n{about_features}\n```\n"])


def _section(name: str, section: type[BaseModel]) -> str:
    head = [f"## {name}\n", f"{section.__doc__}\n", "| key | takes | default | |", "| --- | --- | --- | --- |"]
    rows = [
        f"| `{key}` | {_name(field.annotation)} | {_default(field)} | {_on_one_line(field.description)} |"
        for key, field in _keys(section)
    ]
    return "\n".join([*head, *rows, ""])


def _keys(section: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [(key, field) for key, field in section.model_fields.items() if not _is_section(field.annotation)]


def _on_one_line(text: str | None) -> str:
    """Return a description without its line breaks, each of which would end the table's row."""
    return " ".join((text or "").split())


def _is_section(annotation: Any) -> bool:
    """Tell a section, or the alternatives of one, null among them, from a key."""
    parts = [part for part in get_args(annotation) or (annotation,) if part is not type(None)]
    return all(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in arguments)
    if origin is tuple:
        return "list of whole numbers" if _name(arguments[0]) == "whole number" else "list of names"
    if hasattr(annotation, "__metadata__"):
        return _name(annotation.__origin__)
    names = {"int": "whole number", "float": "number", "str": "text", "bool": "true, false", "datetime": "date"}
    return "null" if annotation is type(None) else names[annotation.__name__]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "–"
    default = field.get_default(call_default_factory=False)
    match default:
        case None:
            return "null"
        case bool():
            return str(default).lower()
        case tuple():
            return ", ".join(f"`{value}`" for value in default) or "none"
        case _:
            return f"`{default}`"


if __name__ == "__main__":
    print(reference(), end="")
