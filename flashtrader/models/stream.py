"""One pass of a causal model over a history, in chunks, in memory that does not grow with its length."""

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrader.errors import TrainingError
from flashtrader.market.spans import iso_time
from flashtrader.models.cache import KeyValueCache
from flashtrader.models.model import GridModel
from flashtrader.models.precision import device_of
from flashtrader.panel.panel import Panel
from flashtrader.panel.splits import Rows


def forecast_rows(model: GridModel, panel: Panel, rows: Rows, warmup_bars: int) -> NDArray[np.float32]:
    """Return (rows, K): the forecasts made at the close of each row, in the targets' units; NaN where `output_rows` is.

    Raises TrainingError when the model answers with no number.
    """
    return forecasts_of(model, output_rows(model, panel, rows, warmup_bars))


@torch.inference_mode()
def forecasts_of(model: GridModel, outputs_RKP: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a model's answers forecast (R, K)."""
    outputs_BTKP = torch.from_numpy(outputs_RKP)[None].to(device_of(model))
    forecasts: NDArray[np.float32] = model.forecast(outputs_BTKP)[0].cpu().numpy()
    return forecasts


def output_rows(model: GridModel, panel: Panel, rows: Rows, warmup_bars: int) -> NDArray[np.float32]:
    """Return (rows, K, P): what the model answers at the close of each row; NaN where there is no forecast.

    An answer at a row sees that row and earlier ones of the same run. There is none in the first `warmup_bars` rows
    of a run, nor for a target whose entity's features are unknown at the row. Reading begins `receptive_bars` rows
    early, so that every answer equals the one of a pass over the whole run; chunks have one size, so that the bits of
    an answer do not depend on how many bars follow. Raises TrainingError when the model answers with no number.
    """
    size = (rows.stop - rows.start, len(panel.target_names), model.numbers_per_target)
    outputs = np.full(size, np.nan, dtype=np.float32)
    run_stops = np.append(panel.run_starts[1:], len(panel.timestamps))
    for run_start, run_stop in zip(panel.run_starts.tolist(), run_stops.tolist(), strict=True):
        first, last = max(rows.start, run_start + warmup_bars), min(rows.stop, run_stop)
        if first < last:
            begin = max(run_start, first - model.decoder.receptive_bars)
            outputs[first - rows.start : last - rows.start] = _outputs_of_run(model, panel, begin, last)[
                first - begin :
            ]
    outputs[~panel.forecastable[rows.start : rows.stop]] = np.nan
    return outputs


class Stream:
    """A model that reads one run of bars, chunk by chunk, and remembers what the next chunk can see."""

    def __init__(self, model: GridModel) -> None:
        self._model = model
        self._past = model.decoder.new_cache()

    def read(self, values_TEF: NDArray[np.float32], mask_TE: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return (T, K, P): the model's answers at the close of the next T bars."""
        outputs_TKP: NDArray[np.float32] = answer(self._model, values_TEF[None], mask_TE[None], self._past)[0]
        return outputs_TKP


@torch.inference_mode()
def answer(
    model: GridModel, values_BTEF: NDArray[np.float32], mask_BTE: NDArray[np.bool_], past: KeyValueCache
) -> NDArray[np.float32]:
    """Return (B, T, K, P): a model's answers at the close of T bars that continue what `past` has read."""
    was_training = model.training
    model.eval()
    values, mask = (torch.from_numpy(array).to(device_of(model)) for array in (values_BTEF, mask_BTE))
    outputs: NDArray[np.float32] = model(values, mask, past).float().cpu().numpy()
    model.train(was_training)
    return outputs


def _outputs_of_run(model: GridModel, panel: Panel, begin: int, end: int) -> NDArray[np.float32]:
    """Return (end − begin, K, P), the first row being the first that the model sees."""
    stream = Stream(model)
    chunk_bars = chunk_length(model.decoder.shape.context_bars)
    starts = range(begin, end, chunk_bars)
    chunks = [stream.read(*_chunk(panel, start, min(start + chunk_bars, end), chunk_bars)) for start in starts]
    outputs = np.concatenate(chunks)[: end - begin]
    check_finite(outputs, panel.timestamps[begin:end])
    return outputs


def check_finite(outputs_TKP: NDArray[np.float32], timestamps_T: NDArray[np.int64]) -> None:
    """Raise TrainingError, naming the bar, unless every answer is a number."""
    finite_T = np.isfinite(outputs_TKP).all(axis=(1, 2))
    if not finite_T.all():
        at = iso_time(int(timestamps_T[int(np.argmin(finite_T))]))
        raise TrainingError(
            f"the model's forecast at {at} is not a number: its training diverged, or its weights are bad; train again"
        )


def chunk_length(context_bars: int) -> int:
    """Return the bars read at once: enough for the kernels, about as many as the cache holds."""
    return min(max(context_bars, 256), 4_096)


def _chunk(panel: Panel, start: int, stop: int, chunk_bars: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return values (chunk, E, F) and mask (chunk, E), the last chunk filled up with missing bars."""
    values = np.zeros((chunk_bars, *panel.values.shape[1:]), dtype=np.float32)
    mask = np.zeros((chunk_bars, panel.mask.shape[1]), dtype=np.bool_)
    values[: stop - start] = panel.values[start:stop]
    mask[: stop - start] = panel.mask[start:stop]
    return values, mask
