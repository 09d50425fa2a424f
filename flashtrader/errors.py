"""Every error that a user can cause.

FlashtraderError          exit 1   the work failed
├── ConfigError           exit 2   a config, option or file path asks for something impossible
├── DataError             exit 1   bars, forecasts or weights that can't be used as they are
│   └── UnreadableError     exit 1   a file that the system doesn't let us read: maybe nothing is wrong with it
├── SourceError           exit 1   an exchange or file did not deliver
│   └── UnknownSymbolError  exit 2   the exchange does not list what was asked for
├── BackendError          exit 2   an attention backend asked for by name can't run
└── TrainingError         exit 1   training can't go on, or a checkpoint can't be used
    └── DivergedError       exit 1   the loss or the gradient exploded

A message is one line: what is wrong, where, and what to do.
"""


def printable(text: str) -> str:
    """Return a text that stays on its line and can't steer a terminal: other signs are written as their escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or what it is, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether that is what an error says: Python's and NumPy's, or PyTorch's on a CPU or a GPU."""
    said = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    )


class FlashtraderError(Exception):
    """Base of every error that is shown to the user without a traceback, whatever a file put into its words."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(FlashtraderError):
    """The request can't be carried out as written."""

    exit_code = 2


class DataError(FlashtraderError):
    """Bars, forecasts or weights are missing, damaged or inconsistent."""


class UnreadableError(DataError):
    """The system refuses to read a file, which may be whole: permissions, a failing disk, too many open files."""


class SourceError(FlashtraderError):
    """A source of market data refused, failed or answered nonsense."""


class UnknownSymbolError(SourceError):
    """The source does not know the symbol or interval that was asked for."""

    exit_code = 2


class BackendError(FlashtraderError):
    """An attention backend that was asked for by name can't run this call."""

    exit_code = 2


class TrainingError(FlashtraderError):
    """Training can't go on, or a checkpoint can't be used."""


class DivergedError(TrainingError):
    """The loss or the gradient exploded, or is no number any more."""
