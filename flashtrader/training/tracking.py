"""Where the metrics of a training go: metrics.jsonl, and TensorBoard if asked for."""

import json
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flashtrader.config import TrainingConfig
from flashtrader.errors import ConfigError
from flashtrader.files import finite
from flashtrader.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Metrics = dict[str, Any]
Watcher = Callable[[Metrics], None]
"""Gets the metrics of every step as they are written."""


class MetricsLog:
    """Appends one JSON object a step to the run's metrics.jsonl, and the same numbers to TensorBoard's events."""

    def __init__(self, run: Run, *, tensorboard: bool) -> None:
        self._events = _summary_writer(run) if tensorboard else None
        self._lines = run.metrics.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._lines.close()
        if self._events is not None:
            self._events.close()

    def flush_to_disk(self) -> None:
        """Wait until the lines so far would survive the machine's end, as a checkpoint does."""
        os.fsync(self._lines.fileno())

    def write(self, metrics: Metrics) -> None:
        """Write the metrics of one step; they are on their way to the disk when this returns."""
        self._lines.write(json.dumps(finite(metrics)) + "\n")
        self._lines.flush()
        if self._events is not None:
            for name, value in metrics.items():
                if isinstance(value, float):
                    self._events.add_scalar(name, value, metrics["step"])


class Follow:
    """Passes on the metrics that a training elsewhere writes, from its newest step at the beginning on."""

    def __init__(self, run: Run, place: Metrics, watch: Watcher) -> None:
        self._path, self._place, self._watch = run.metrics, place, watch
        self._step = max((row["step"] for row in run.read_metrics()), default=0)
        self._position = 0

    def __call__(self) -> None:
        """Pass on what is new: whole lines alone."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as lines:
            lines.seek(min(self._position, self._path.stat().st_size))
            self._position = lines.tell()
            text = lines.read()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
        except ValueError:  # within a line: a training that went on has written the file anew
            self._position = 0
            return
        self._position += len(whole)
        for metrics in rows:
            if metrics["step"] > self._step:
                self._step = metrics["step"]
                self._watch(metrics | self._place)


def check_installed(config: TrainingConfig) -> None:
    """Raise ConfigError if the config asks for TensorBoard and it is not installed."""
    if config.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise ConfigError(
                "training.tensorboard: not installed; pip install 'flashtrader[tracking]', or set it to false"
            ) from None


def _summary_writer(run: Run) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"))
