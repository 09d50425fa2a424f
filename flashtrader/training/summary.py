"""What came of a training."""

from dataclasses import dataclass

from flashtrader.run import Run


@dataclass(frozen=True)
class TrainingSummary:
    """What came of a training. Losses are in units of the objective on standardised targets."""

    run: Run
    steps: int
    best_step: int
    validation_loss: float
    skill: str
    """What the validation skill is: ic, …"""
    validation_skill: float
    seconds: float
    stopped: str
    """completed, early or interrupted."""
