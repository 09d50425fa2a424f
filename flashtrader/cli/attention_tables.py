"""What `bench attention` found, as tables of short cells; the JSON beside them holds every figure."""

from collections.abc import Callable, Sequence

from flashtrader.benchmarks.attention import DIRECTION_NAMES, AttentionBenchmark, Row
from flashtrader.benchmarks.io_model import IoModel
from flashtrader.benchmarks.published import BREAKDOWN_SHAPE, Reproduction
from flashtrader.benchmarks.references import MULTIHEAD
from flashtrader.cli.console import Table

NONE = "–"
_MIB = 1 << 20


def measured_tables(measured: AttentionBenchmark) -> list[Table]:
    """Return time by length, memory by length, and all figures of one length; then what could not be measured."""
    panels = {
        (pattern, direction): _of_panel(measured, pattern, direction)
        for pattern, direction in dict.fromkeys((row.pattern, row.direction) for row in measured.rows)
    }
    tables = [
        _by_length(f"Milliseconds: {pattern}, {DIRECTION_NAMES[direction]}", rows, _milliseconds)
        for (pattern, direction), rows in panels.items()
    ]
    tables += [
        _by_length(f"Peak MiB above the inputs: {pattern}, {DIRECTION_NAMES[direction]}", rows, _mebibytes)
        for (pattern, direction), rows in panels.items()
        if direction == "training"
    ]
    tables += [_at_one_length(rows, f"{pattern}, {DIRECTION_NAMES[of]}") for (pattern, of), rows in panels.items()]
    never = {
        row.backend: str(row.no_number)
        for row in measured.rows
        if all(other.milliseconds is None for other in measured.rows if other.backend == row.backend)
    }
    if never:
        tables.append(Table("Not measured here", ("backend", "why"), list(never.items())))
    return [table for table in tables if table.rows]


def _of_panel(measured: AttentionBenchmark, pattern: str, direction: str) -> list[Row]:
    """Return a panel's rows of the backends that have a number in it."""
    rows = [row for row in measured.rows if (row.pattern, row.direction) == (pattern, direction)]
    running = {row.backend for row in rows if row.milliseconds is not None}
    return [row for row in rows if row.backend in running]


def _by_length(title: str, rows: Sequence[Row], cell: Callable[[Row], str]) -> Table:
    lengths = sorted({row.length for row in rows})
    cells = {(row.backend, row.length): cell(row) for row in rows}
    backends = dict.fromkeys(row.backend for row in rows)
    body = [(_name(backend), *(cells[backend, length] for length in lengths)) for backend in backends]
    return Table(title, ("tokens", *map(_tokens, lengths)), body)


def _at_one_length(rows: Sequence[Row], panel: str) -> Table:
    """Return every figure at the longest length that naive reached, or else the shortest."""
    lengths = {row.length for row in rows if row.backend == "naive" and row.milliseconds is not None}
    length = max(lengths, default=min((row.length for row in rows), default=0))
    on_gpu = any((row.tflops_per_second or 0) >= 1 for row in rows)
    per_tera, rate = (1, "TFLOP/s") if on_gpu else (1000, "GFLOP/s")
    body = [
        (
            _name(row.backend),
            _milliseconds(row),
            "" if row.tflops_per_second is None else f"{row.tflops_per_second * per_tera:.3g}",
            "" if row.matrix_fraction is None else f"{row.matrix_fraction:.0%}",
            _mebibytes(row),
            "" if row.predicted_bytes is None else _number(row.predicted_bytes / _MIB),
            "" if row.speedup_over_naive is None else f"{row.speedup_over_naive:.1f}×",
        )
        for row in rows
        if row.length == length
    ]
    columns = ("backend", "ms", rate, "of matrix rate", "peak MiB", "predicted", "over naive")
    return Table(f"At {length:,} tokens: {panel}", columns, body)


def io_tables(model: IoModel) -> list[Table]:
    """Return the traffic by length beside what was measured, and what each memory holds."""
    body = [
        (
            _tokens(row.length),
            _size(row.standard.total_bytes),
            _size(row.flash.total_bytes),
            f"{row.standard.total_bytes / row.flash.total_bytes:.0f}×",
            NONE if row.standard_ms is None else _number(row.standard_ms),
            NONE if row.flash_ms is None else _number(row.flash_ms),
            NONE if row.standard_ms is None or row.flash_ms is None else f"{row.standard_ms / row.flash_ms:.1f}×",
        )
        for row in model.rows
        if row.work == "training"
    ]
    columns = ("tokens", "standard", "flash", "ratio", "naive ms", "flash ms", "ratio")
    chip = f"{model.on_chip.name} of {_size(model.on_chip.bytes)}"
    title = f"Read and written by the IO model ({chip}) beside the time measured: {model.pattern}, forward + backward"
    held = [
        (
            of.level.name,
            _size(of.level.bytes),
            *(
                f"{longest:,}"
                for longest in (of.one_head_standard, of.one_head_flash, of.all_heads_standard, of.all_heads_flash)
            ),
        )
        for of in model.longest
    ]
    held_columns = ("memory", "size", "1 head, matrix", "1 head, flash", "all heads, matrix", "all heads, flash")
    return [Table(title, columns, body), Table("Longest sequence that a memory holds, forward", held_columns, held)]


def reproduction_tables(found: Reproduction) -> list[Table]:
    """Return the articles' tables, measured here, with the published figures in columns of their own."""
    memory = [
        (
            _tokens(row.length),
            _size(row.matrix_bytes),
            _peak(row.standard),
            _peak(row.flash),
            _size(row.published_standard_mib * _MIB),
            NONE if row.published_flash_mib is None else _size(row.published_flash_mib * _MIB),
        )
        for row in found.matrix_memory
    ]
    speed = [
        (
            f"{row.direction}, {_tokens(row.length)}",
            _milliseconds(row.standard),
            _milliseconds(row.flash),
            NONE if row.flash.speedup_over_naive is None else f"{row.flash.speedup_over_naive:.1f}×",
            *(f"{milliseconds:,.0f}" for milliseconds in row.published_ms),
        )
        for row in found.speed
    ]
    parts = [
        (
            _tokens(row.length),
            _size(row.qkv_bytes),
            _size(row.scores_bytes),
            _size(row.weights_bytes),
            _size(row.output_bytes),
            _size(row.standard_bytes),
            _size(row.flash_bytes),
            f"{1 - row.flash_bytes / row.standard_bytes:.1%}",
        )
        for row in found.breakdown
    ]
    backend = found.speed[0].flash.backend
    shape = BREAKDOWN_SHAPE
    return [
        Table(
            "Memory of one head, forward, float32: measured here, and as an article printed it",
            ("tokens", "matrix", "naive", found.matrix_memory[0].flash.backend, "article", "article, flash"),
            memory,
        ),
        Table(
            "Milliseconds, all keys visible: measured here, and as an article printed them for an A100",
            ("tokens", "naive", backend, "ratio", "A100 standard", "version 1", "version 2"),
            speed,
        ),
        Table(
            f"Computed: memory of one layer, batch {shape['batch']}, {shape['heads']} heads of {shape['head_dim']}",
            ("tokens", "Q, K, V", "scores", "weights", "output", "standard", "flash", "saved"),
            parts,
        ),
    ]


def notes(measured: AttentionBenchmark) -> list[str]:
    """Return what the tables say, and how to read them."""
    speeds = measured.speeds
    return [
        *_sentences(measured),
        f"This device multiplies large matrices at {speeds.matrix_tflops_per_second * 1e3:,.0f} GFLOP/s and copies at "
        f"{speeds.copied_bytes_per_second / 1e9:.3g} GB/s (read and written).",
        f"{NONE}: too little memory, or a call longer than --max-seconds; attention.json has each reason.",
        f"{_name(MULTIHEAD)} is torch.nn.MultiheadAttention as it is usually called, projections included.",
    ]


def _sentences(measured: AttentionBenchmark) -> list[str]:
    """Return, for each pattern, what the fastest backend gains in training at the longest length that naive reached."""
    sentences = []
    for pattern in dict.fromkeys(row.pattern for row in measured.rows):
        rows = [row for row in _of_panel(measured, pattern, "training") if row.speedup_over_naive is not None]
        length = max((row.length for row in rows), default=0)
        at_length = {row.backend: row for row in rows if row.length == length}
        if len(at_length) > 1:
            naive = at_length["naive"]
            best = max(at_length.values(), key=lambda row: row.speedup_over_naive or 0.0)
            memory = ""
            if best.peak_bytes and naive.peak_bytes:
                memory = f", and takes 1/{naive.peak_bytes / best.peak_bytes:.0f} of the memory"
            sentences.append(
                f"{pattern}, {length:,} tokens, forward + backward: {best.backend} is "
                f"{best.speedup_over_naive:.1f} times as fast as naive, the formula as written{memory}."
            )
    return sentences


def one_line(row: Row) -> str:
    """Return a row as a line of progress."""
    if row.milliseconds is None:
        figures = str(row.no_number)
    else:
        figures = f"{_milliseconds(row)} ms" + ("" if row.peak_bytes is None else f", {_mebibytes(row)} MiB")
    return f"{row.backend}, {row.pattern}, {DIRECTION_NAMES[row.direction]}, {row.length:,} tokens: {figures}"


def _name(backend: str) -> str:
    return "nn.Multihead" if backend == MULTIHEAD else backend


def _tokens(length: int) -> str:
    return f"{length // 1024}K" if length % 1024 == 0 else str(length)


def _milliseconds(row: Row) -> str:
    return NONE if row.milliseconds is None else _number(row.milliseconds)


def _mebibytes(row: Row) -> str:
    return NONE if row.peak_bytes is None else _number(row.peak_bytes / _MIB)


def _peak(row: Row) -> str:
    return NONE if row.peak_bytes is None else _size(row.peak_bytes)


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def _size(number: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024 or unit == "GiB":
            return f"{_number(number)} {unit}"
    raise AssertionError
