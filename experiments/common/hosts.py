"""Many hosts that run one experiment: the first of them writes, and all stop together."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

LONGEST_TEXT = 4096  # bytes


def is_writer() -> bool:
    """Whether this host writes the run's files; the others have the same numbers."""
    return jax.process_index() == 0


def text_of_writer(text: str) -> str:
    """The writer's text, on every host."""
    if jax.process_count() == 1:
        return text
    padded = text.encode().ljust(LONGEST_TEXT, b"\0")
    received = multihost_utils.broadcast_one_to_all(np.frombuffer(padded, np.uint8))
    return bytes(np.asarray(received)).rstrip(b"\0").decode()


def wait_for_writer() -> None:
    """Until all hosts are here: what the writer wrote before can then be read."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("written")


def on_any_host(asked: Callable[[], bool]) -> Callable[[], bool]:
    """Whether the answer is yes on one host at least: a question that all hosts ask together."""
    if jax.process_count() == 1:
        return asked
    return lambda: bool(multihost_utils.process_allgather(np.asarray(asked())).any())
