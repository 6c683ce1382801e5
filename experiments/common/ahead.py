"""Work that is done in the background before it is needed."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import jax

MOST_THREADS = 2


class Ahead:
    """Calls functions in threads, in their order.

    The end of the context waits for the calls that have begun, and drops the others. Errors are
    ignored, since the caller that needs the result makes the call again. With several hosts nothing
    is called, since all of them have to work in the same order.
    """

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, functions: Iterable[Callable[[], None]]) -> None:
        """Begin to call the functions."""
        if jax.process_count() == 1:
            for function in functions:
                self._pool.submit(function)
