"""What torchrun tells each process that it starts. Nothing here loads torch."""

import os


def was_launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def num_processes() -> int:
    """Return how many processes torchrun started, on all machines; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if was_launched() else 1


def rank() -> int:
    """Return this process's number among them, from 0. The first one writes and prints."""
    return int(os.environ["RANK"]) if was_launched() else 0
