"""Loops over bars as machine code."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(*signature: Any, **options: Any) -> Callable[[_Function], _Function]:
    """Return numba's `njit` with these arguments, which keeps what it made on disk where a place for it can be written.

    Where none can (a container's user without a home, a disk without room) every process compiles anew, which takes it
    seconds; numba would refuse.
    """
    compile_with: Any = partial(njit, *signature, **options)

    def compile_function(function: _Function) -> _Function:
        try:
            made: _Function = compile_with(cache=True)(function)
        except (RuntimeError, OSError):
            made = compile_with(cache=False)(function)
        return made

    return compile_function
