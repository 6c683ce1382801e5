"""One experiment on several hosts: the first one writes, and all stop together."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

LONGEST_TEXT = 4096  # bytes


def is_writer() -> bool:
    """Whether this host writes the run's files; all hosts have the same numbers."""
    return jax.process_index() == 0


def text_of_writer(text: str) -> str:
    """Send the writer's text to every host."""
    if jax.process_count() == 1:
        return text
    padded = text.encode().ljust(LONGEST_TEXT, b"\0")
    received = multihost_utils.broadcast_one_to_all(np.frombuffer(padded, np.uint8))
    return bytes(np.asarray(received)).rstrip(b"\0").decode()


def wait_for_writer() -> None:
    """Wait for all hosts; what the writer has written by then can be read."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("written")


def on_any_host(question: Callable[[], bool]) -> Callable[[], bool]:
    """Make a question that all hosts ask together true if any of them answers yes."""
    if jax.process_count() == 1:
        return question
    return lambda: bool(multihost_utils.process_allgather(np.asarray(question())).any())
