"""Command-line helpers: options, and one-line errors instead of tracebacks."""

import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.text import Text

import xentjax

EXIT_USER_ERROR = 2  # the exit code of argument parsers
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
ESCAPE = "\x1b"
BOX = re.compile(r"[│╭╰+|]")  # begins a line of a table of options
# characters that move a terminal's cursor or end a line, and surrogates, which stand for the bytes
# of a path that are not UTF-8
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LEAST_ALPHA = 1e-30  # an error probability; float32 ends at 1e-38, and classes share it


class UserError(Exception):
    """An error that the user can fix; its message is one line."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the command with one line on stderr and exit code 2 on a UserError.

    A platform that jax was told to use and cannot find ends it in the same way, Ctrl-C with one
    line and the shell's exit code for that signal. Characters that the output's encoding lacks are
    printed as question marks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_BROKEN_PIPE) from None
    except UserError as error:
        _end(str(error))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" in reason:
            _end(f"out of memory: {reason}")
        if (problem := _platform_problem()) is None:
            raise
        _end(problem)


def _end(line: str) -> None:
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR) from None


def _platform_problem() -> str | None:
    """Describe in one line why jax has no device; its own errors may not say so."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        requested = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
        reason = str(error).partition(" (set")[0] or "no device"  # an assertion has no message
        return f"{requested}: expected an available platform, got: {reason}"
    return None


def parse_options(kind: Any, argv: Sequence[str] | None, *, prog: str, **options: Any) -> Any:
    """Parse the options with `tyro.cli`, and wrap its help text between words.

    Raises:
        SystemExit: the help was requested, or an option is wrong, which tyro has reported.
    """
    if {"-h", "--help"}.isdisjoint(sys.argv[1:] if argv is None else argv):
        return tyro.cli(kind, args=argv, prog=prog, **options)
    shown = _Help()
    try:
        with redirect_stdout(shown):
            return tyro.cli(kind, args=argv, prog=prog, **options)
    finally:
        print(_wrapped(shown.getvalue()), end="")


class _Help(io.StringIO):
    """A buffer that tyro formats for the terminal on which the text will be shown."""

    def __init__(self) -> None:
        super().__init__()
        self._shown_on = sys.stdout

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._shown_on.encoding

    def isatty(self) -> bool:
        return self._shown_on.isatty()


def _wrapped(text: str) -> str:
    """Break the long lines of a help text between words, and merge consecutive empty lines."""
    width = shutil.get_terminal_size().columns

    def wrapped(line: str) -> str:
        if BOX.match(line) or ESCAPE in line:  # tyro has fitted these lines to the terminal
            return line
        indent = line[: len(line) - len(line.lstrip())]
        return textwrap.fill(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    lines = re.sub(r"\n{3,}", "\n\n", text).splitlines()
    return "".join(f"{wrapped(line)}\n" for line in lines)


def printable(text: str) -> str:
    """Escape control characters, so that the text stays on one line and moves no cursor."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(console: Console, text: str) -> None:
    """Print a line without wrapping it, so that a path in it can be copied."""
    console.print(Text(printable(text)), soft_wrap=True)


def check_seed(option: str, seed: int) -> None:
    """Require a seed of 32 bits: jax would truncate a larger one, or fail."""
    if not 0 <= seed < 2**32:
        raise UserError(f"{option}: expected 0 to {2**32 - 1}, got {seed}")


def pmf_option(option: str, probs: Sequence[float]) -> jax.Array:
    """Convert the probabilities given as a command-line option to a pmf, float32 [K].

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
