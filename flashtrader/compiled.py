"""Loops over bars as machine code."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _WherePossible(FunctionCache):
    """Numba's cache of a function, less its errors: a disk that fills up, a file that was cut off by a crash."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was kept; None, so that it is compiled, where that can't be read."""
        with suppress(Exception):  # what unpickling raises is anything
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if there is a place for it."""
        with suppress(Exception):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def compiled(*signature: Any, **options: Any) -> Callable[[_Function], _Function]:
    """Return numba's `njit` with these arguments, which keeps what it made on disk where a place for it can be written.

    Where none can (a container's user without a home, a disk without room) every process compiles anew, which takes it
    seconds; numba would refuse.
    """
    compile_with: Any = partial(njit, *signature, **options)

    def compile_function(function: _Function) -> _Function:
        try:
            made: Any = compile_with(cache=True)(function)
            made._cache = _WherePossible(function)  # type: ignore[no-untyped-call]
        except Exception:  # the cache's; one about the function comes again
            made = compile_with(cache=False)(function)
        kept: _Function = made
        return kept

    return compile_function
