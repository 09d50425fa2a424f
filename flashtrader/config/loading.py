"""From a YAML file and overrides to an experiment, and what a person is told where that fails."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flashtrader.config.experiment import Experiment
from flashtrader.errors import ConfigError

_MOST_BYTES = 2**18


class _PlainLoader(yaml.SafeLoader):
    """Values that stand where they are written: with aliases and merges, a few lines can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not followed; write the value itself", mark)
        return super().compose_node(parent, index)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment that a YAML file and `section.key=value` overrides describe.

    Raises ConfigError, naming the file and the dotted path, for anything the schema does not take.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror or error}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; give the path of a YAML file") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES:,} bytes; give the path of a YAML file, not of data")
    return _experiment(text, path, tuple(overrides))


# A command asks a run for its experiment many times over, and parsing takes longer than all else in doing so.
@lru_cache(maxsize=64)
def _experiment(text: str, path: Path, overrides: tuple[str, ...]) -> Experiment:
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
        return yaml.load(text, _PlainLoader)
    except Exception as error:  # beside its own errors, whatever a tag makes of text that is not of its kind
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: not valid YAML ({line}{problem})") from None


def _apply(settings: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, key = path.split(".")
    if not equals or "" in (*sections, key):
        raise ConfigError(f"--set {override}: write it as section.key=value")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
    value = _parse_yaml(text, f"--set {override}")
    unless_named = {"policy": "tanh", "target": "log_return"}.get(sections[-1] if sections else "")
    if key == "kind" and unless_named and settings.get("kind", unless_named) != value:
        settings.clear()  # another policy or target has other keys
    settings[key] = value


def first_problem(error: ValidationError) -> str:
    """Return where a file's content is first not as it should be, and what of it is not, on one line."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'all of it'}: {_words(problem)}"


def _explain(problem: Any) -> str:
    unknown = problem["type"] == "extra_forbidden"  # what a person wrote, whatever it looks like
    last = len(problem["loc"]) - 1
    path = ".".join(str(part) for at, part in enumerate(problem["loc"]) if _is_key(part) or (unknown and at == last))
    match problem["type"]:
        case "extra_forbidden":
            others = [
                key for key in known_keys(kinds=frozenset(problem["loc"])) if not f"{path}.".startswith(f"{key}.")
            ]
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
            return f"{path}: {_words(problem)}"


def _words(problem: Any) -> str:
    """Return pydantic's words about a problem, less the names of exceptions and classes."""
    said = problem["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
    return f"{said[0].lower()}{said[1:]}"


_UNION_TAGS = (
    "tanh",
    "threshold",
    "top_k",
    "weights",
    "log_return",
    "fill_return",
    "next_candle",
    "direction",
    "float",
)


def _is_key(part: str | int) -> bool:
    """Tell a key or position in the YAML from pydantic's names for the alternatives of a union."""
    return isinstance(part, int) or (part.isidentifier() and part not in _UNION_TAGS)


def known_keys(
    section: type[BaseModel] = Experiment, prefix: str = "", kinds: Collection[object] = ()
) -> Iterator[str]:
    """Yield the dotted path of every key of the schema; where policies or targets of `kinds` are, of these alone."""
    for name, field in section.model_fields.items():
        yield prefix + name
        sections = _sections_of(field.annotation)
        for inner in [inner for inner in sections if _kind(inner) in kinds] or sections:
            yield from known_keys(inner, f"{prefix}{name}.", kinds)


def _kind(section: type[BaseModel]) -> object:
    """Return by which kind a section is chosen from several, if it is."""
    names = get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()
    return names[0] if len(names) == 1 else None


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections_of(part)]
