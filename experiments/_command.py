"""What all commands share: a mistake of the user ends in one line, not in a traceback."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp

import xentjax

EXIT_USER_ERROR = 2  # what argument parsers exit with
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# what moves a terminal's cursor, ends a line, or has no encoding (bytes of a path that is no UTF-8)
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """Something only the user can put right; its text is one line that says what."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the command with one line on stderr and exit code 2 on a UserError.

    Ctrl-C ends it with one line as well, and the shell's code for that signal.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None


def printable(text: str) -> str:
    """The text on one line that moves no cursor: control characters as Python writes them."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def check_seed(option: str, seed: int) -> None:
    """A seed has 32 bits: jax would make two seeds one, or fail, if it had more."""
    if not 0 <= seed < 2**32:
        raise UserError(f"{option}: expected 0 to {2**32 - 1}, got {seed}")


def pmf_option(option: str, probs: Sequence[float]) -> jax.Array:
    """The probabilities given as an option of the command line, float32 [K].

    Raises:
        UserError: they are not a pmf.
    """
    if not probs:
        raise UserError(f"{option}: expected probabilities, got none")
    pmf = jnp.asarray(probs, jnp.float32)
    try:
        xentjax.check_pmf(pmf)
    except ValueError as error:
        raise UserError(f"{option}: {str(error).removeprefix('p: ')}") from None
    return pmf
