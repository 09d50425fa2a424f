"""One model: begun in the run directory that is made for it, or gone on with from its last checkpoint."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from flashtrader.config import Experiment
from flashtrader.errors import ConfigError, TrainingError
from flashtrader.models.model import GridModel
from flashtrader.models.plain import save_plain
from flashtrader.models.weights import load_tensors
from flashtrader.run import Run
from flashtrader.training.checkpoint import has_checkpoint
from flashtrader.training.data import LabelledPanel, TrainingData, prepare
from flashtrader.training.distributed import team
from flashtrader.training.manifest import (
    check_same_data,
    check_same_experiment,
    describe_resumption,
    describe_training,
    with_bars_of,
)
from flashtrader.training.memory import built_within_memory
from flashtrader.training.plain import fit_plain_models, train_plain
from flashtrader.training.summary import TrainingSummary
from flashtrader.training.tracking import Watcher
from flashtrader.training.trainer import Trainer

_log = logging.getLogger(__name__)

TO_GO_ON = "to go on, raise training.max_steps or training.patience"


def train_one(
    experiment: Experiment, data_dir: Path, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Train one model in the run directory that `create` makes, from the best weights of an `earlier` run if given."""
    if experiment.plain_family is not None:
        return team().from_writer(partial(train_plain, experiment.plain_family, experiment, data_dir, create))
    return _begin(experiment, prepare(experiment, data_dir), create, watch, earlier)


def _begin(
    experiment: Experiment, data: TrainingData, create: Callable[[], Run], watch: Watcher, earlier: Run | None = None
) -> TrainingSummary:
    """Fit the plain models beside a transformer, then train it, from its first step on."""
    model = untrained(experiment, data)
    if earlier is not None:
        _start_from_best_of(earlier, model)
    manifest = describe_training(experiment, data, model) | ({"begins_as": earlier.name} if earlier else {})

    def begin() -> Run:
        beside = fit_plain_models(experiment, data, experiment.plain_models)
        run = create()
        for family, fitted in beside.items():
            save_plain(run.plain_model(family), fitted.model)
        scores = {family: asdict(fitted.score) for family, fitted in beside.items()}
        run.write_manifest(manifest | {"plain_models": scores})
        return run

    return Trainer(experiment, data, model, team().from_writer(begin)).train(watch)


def _start_from_best_of(earlier: Run, model: GridModel) -> None:
    """Put another run's best weights into a model, whose standardiser stays its own."""
    tensors, _ = load_tensors(earlier.checkpoints / "best.safetensors")
    learned = {name: tensor for name, tensor in tensors.items() if not name.startswith("standardiser.")}
    unfit = set(learned) ^ {name for name in model.state_dict() if not name.startswith("standardiser.")}
    if unfit:
        raise TrainingError(
            f"{earlier.path}: its weights do not fit a warm start: {', '.join(sorted(unfit))} "
            "missing or unknown; train that fold anew"
        )
    model.load_state_dict(learned, strict=False)


def resume_one(experiment: Experiment, data_dir: Path, run: Run, watch: Watcher) -> TrainingSummary:
    """Go on with a run of one model. Raises ConfigError for a plain one, and for another experiment than the run's."""
    if experiment.plain_family is not None:
        raise ConfigError(
            f"{run.path}: {experiment.plain_family} is fitted at once and has nothing to go on with; train a new run "
            "with --config"
        )
    check_same_experiment(run, experiment)
    data = prepare(with_bars_of(run, experiment), data_dir)
    check_same_data(run, data)
    if not team().from_writer(lambda: has_checkpoint(run.checkpoints)):
        _log.warning("%s: killed before its first checkpoint; it begins at step 0", run.path)
        return _begin(experiment, data, partial(begin_anew, run, experiment), watch)
    trainer = Trainer(experiment, data, untrained(experiment, data), run)
    trainer.restore()
    if trainer.is_over:  # and what was made of the model stays right
        _log.warning("%s: trained to its end already, at step %d; %s", run.path, trainer.progress.step, TO_GO_ON)
    else:
        record_resumption(run, experiment, after_step=trainer.progress.step)
    return trainer.train(watch)


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Be the only team that trains a run: its writer holds the run's lock."""
    with ExitStack() as held:
        team().from_writer(lambda: held.enter_context(run.alone()))
        yield


def begin_anew(run: Run, experiment: Experiment) -> Run:
    """Return a run that was killed before its first checkpoint as if it had just been made."""
    run.metrics.unlink(missing_ok=True)
    run.write_config(experiment)
    return run


def record_resumption(run: Run, experiment: Experiment, after_step: int) -> None:
    """Write into a run by what experiment it goes on, and drop what was made of its models as they were."""

    def write() -> None:
        run.write_manifest(run.manifest | describe_resumption(run, experiment, after_step))
        run.write_config(experiment)
        run.drop_results()

    team().from_writer(write)


def untrained(experiment: Experiment, data: LabelledPanel) -> GridModel:
    """Return the experiment's model before its first step, on the device that trains it."""
    return built_within_memory(experiment, data.scaler)
