"""How a training is watched: a live bar on a terminal, lines elsewhere."""

from typing import Any

from flashtrader.cli.console import say
from flashtrader.cli.member_tables import place_of
from flashtrader.launch import rank


class TrainingProgress:
    """A live bar where standard error is a terminal, and a line for every evaluation elsewhere."""

    def __init__(self, max_steps: int, *, drawn: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, quiet=rank() > 0)
        self._total = max_steps
        self._seen: dict[int, dict[str, Any]] = {}  # by a model's number among several
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal or not drawn,
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        self._task = self._bar.add_task("training", total=self._total, status="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def has_begun(self) -> bool:
        """Whether a step was made."""
        return bool(self._seen)

    def update(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of one step."""
        from flashtrader.report.formats import fixed
        from flashtrader.report.metric_names import SKILL_LABELS

        number = metrics.get("member", 1)
        self._seen[number] = seen = self._seen.get(number, {}) | metrics
        status = f"loss {fixed(seen['train_loss'], 4)}  {seen['bars_per_second']:,.0f} bars/s"
        for name, label in SKILL_LABELS.items():
            if (skill := seen.get(f"validation_{name}")) is not None:
                loss = fixed(seen["validation_loss"], 4)
                status += f"  validation loss {loss} {label} {fixed(skill, 4, signed=True)}"
        where, models = place_of(metrics), metrics.get("members", 1)
        # Models before the first that is seen, and between those that are, were trained before.
        steps = {model: newest["step"] for model, newest in self._seen.items()}
        completed = sum(steps.get(model, self._total) for model in range(1, max(steps) + 1))
        self._bar.update(self._task, completed=completed, total=models * self._total, status=where + status)
        if "validation_loss" in metrics and not self._console.is_terminal:
            say(f"{where}step {metrics['step']:,} of {self._total:,}  {status}{'  (best)' if metrics['best'] else ''}")
