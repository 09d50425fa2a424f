"""What 1 to 64 devices would give a training, computed from one device's measured step: a model, not a measurement.

    python scripts/scaling_model.py configs/portfolio-100.yaml --step-seconds 131 --faster 100

Compute divides evenly; then each process waits for the gradients (DDP's ring all-reduce, of which none is hidden behind
the backward pass) and, where a segment is shared, for its neighbour's keys and values. `--faster` assumes a device so
many times as fast as the one that was measured.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from flashtrader.config import Experiment, load_config
from flashtrader.training.budget import untrained_model

FLOAT_BYTES = 4
DEVICES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Link:
    """An interconnect."""

    name: str
    bytes_per_second: float
    """One way, of each device."""
    latency_s: float
    """Of a message: an assumption."""


LINKS = (
    Link("NVLink 4, 450 GB/s", 450e9, 5e-6),  # 900 GB/s, both ways: H100's and H200's data sheets
    Link("InfiniBand NDR, 50 GB/s", 50e9, 10e-6),  # 400 Gb/s a port: ConnectX-7's data sheet
    Link("Ethernet, 1.25 GB/s", 1.25e9, 50e-6),  # 10 Gb/s: IEEE 802.3ae
)


@dataclass(frozen=True)
class Workload:
    """One training step of an experiment, measured on one device."""

    experiment: Experiment
    parameters: int
    width: int
    layers: int
    entities: int
    step_s: float
    validation_bars: int = 0

    @property
    def evaluation_s(self) -> float:
        """What evaluations add to a step, undivided. Forward is a third of it: Kaplan et al. (2020), section 2.1."""
        training = self.experiment.training
        steps = self.validation_bars / (training.batch_size * training.segment_bars)
        return self.step_s * steps / 3 / training.evaluate_every

    def stretches(self, devices: int) -> int | None:
        """Return into how many stretches each segment is cut for so many devices; None where that can't be."""
        training = self.experiment.training
        groups = min(devices, training.batch_size)
        stretches = devices // groups
        fits = training.segment_bars // stretches >= self.experiment.context_bars - 1
        even = training.batch_size % groups == 0 and training.segment_bars % stretches == 0
        return stretches if fits and even else None

    def gradient_bytes(self, devices: int) -> float:
        """Return what each device sends in a ring all-reduce: Patarasuk & Yuan (2009), section 3."""
        return 2 * (devices - 1) / devices * FLOAT_BYTES * self.parameters

    def border_bytes(self, devices: int) -> float:
        """Return what each device sends of keys and values, and gets of their gradients, at the end of its stretch."""
        if self.stretches(devices) == 1:
            return 0.0
        seen = (self.experiment.context_bars - 1) * self.entities
        return 2 * 2 * self.layers * seen * self.width * FLOAT_BYTES

    def seconds(self, devices: int, link: Link) -> float:
        """Return the time of a step and its share of an evaluation, nothing hidden behind anything."""
        if devices == 1:
            return self.step_s + self.evaluation_s
        messages = 2 * (devices - 1) + (2 * self.layers if self.border_bytes(devices) else 0)
        sent = self.gradient_bytes(devices) + self.border_bytes(devices)
        alone = self.step_s / devices + self.evaluation_s
        return alone + sent / link.bytes_per_second + messages * link.latency_s


def table(workload: Workload) -> str:
    """Return the speed-ups as Markdown."""
    names = " | ".join(link.name for link in LINKS)
    lines = [f"| devices | stretches of a segment | gradients, MB | border, MB | {names} |", "| --- " * 7 + "|"]
    for devices in DEVICES:
        stretches = workload.stretches(devices)
        if stretches is None:
            lines.append(f"| {devices} | too short for the window | – | – | – | – | – |")
            continue
        ups = " | ".join(f"{workload.seconds(1, link) / workload.seconds(devices, link):.1f}×" for link in LINKS)
        sizes = f"{workload.gradient_bytes(devices) / 1e6:.2f} | {workload.border_bytes(devices) / 1e6:.2f}"
        lines.append(f"| {devices} | {stretches} | {sizes} | {ups} |")
    return "\n".join(lines)


def workload_of(config: Path, step_s: float, validation_bars: int) -> Workload:
    """Return a config's step, which takes so long on one device."""
    experiment = load_config(config, ["training.device=cpu"])
    model = untrained_model(experiment)
    shape = model.decoder.shape
    parameters = sum(weight.numel() for weight in model.parameters())
    return Workload(experiment, parameters, shape.width, shape.layers, shape.entities, step_s, validation_bars)


def main() -> None:
    """Print the table of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--step-seconds", type=float, required=True, help="measured, on one device")
    parser.add_argument("--faster", type=float, default=1.0, help="than that device: an assumption")
    parser.add_argument("--validation-bars", type=int, default=0, help="in one evaluation")
    given = parser.parse_args()
    print(table(workload_of(given.config, given.step_seconds / given.faster, given.validation_bars)))


if __name__ == "__main__":
    main()
