"""The text: Python's own standard library, or a file of the user; and batches of its tokens."""

import hashlib
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common.command import UserError
from experiments.language_model.tokenizer import END, Tokenizer

# folders and files that are not text, or that differ between machines
SKIPPED = {"test", "tests", "site-packages", "dist-packages", "encodings", "idlelib", "pydoc_data"}
MACHINE = "_sysconfigdata"
EVERY = 10  # one of this many documents is held out


class DataError(UserError):
    """A text that cannot be read; the message is one line with the reason."""


@dataclass(frozen=True)
class Text:
    """Documents, some of them held out.

    Attributes:
        name: what was read.
        train: the documents to learn from.
        held_out: the documents to test on.
    """

    name: str
    train: Sequence[bytes]
    held_out: Sequence[bytes]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(len(document) for document in (*self.train, *self.held_out))

    @property
    def sha256(self) -> str:
        """Hash of all documents, in order."""
        digest = hashlib.sha256()
        for document in (*self.train, *self.held_out):
            digest.update(len(document).to_bytes(8, "little") + document)
        return digest.hexdigest()


def read_text(path: Path | None, most_bytes: int) -> Text:
    """Read a file and hold out its last tenth, or read the sources of Python's library.

    The modules of the library are taken in the order of the SHA-256 of their names, except those
    that would exceed `most_bytes`; every tenth is held out.

    Raises:
        DataError: there is no text, or too little of it.
    """
    text = _library(most_bytes) if path is None else _file(path, most_bytes)
    if not any(text.train) or not any(text.held_out):
        raise DataError(f"{text.name}: expected text to train and test on, got {text.size} bytes")
    return text


def _library(most_bytes: int) -> Text:
    root = Path(sysconfig.get_path("stdlib"))
    names = list[str]()
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - SKIPPED  # os.walk visits only these next
        modules = (name for name in files if name.endswith(".py") and not name.startswith(MACHINE))
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in modules]
    documents, size = list[bytes](), 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        document = (root / name).read_bytes()
        if size + len(document) <= most_bytes:
            documents.append(document)
            size += len(document)
    if not documents:
        raise DataError(f"{root}: expected the sources of Python's library, got none; use --data")
    held_out = documents[::EVERY]
    del documents[::EVERY]
    version = sysconfig.get_python_version()
    return Text(f"the standard library of Python {version}", documents, held_out)


def _file(path: Path, most_bytes: int) -> Text:
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(most_bytes)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected a file of text, got {reason}") from None
    start = len(content) - len(content) // EVERY
    start = content.rfind(b"\n", 0, start) + 1 or start  # the beginning of a line, if there is one
    return Text(str(path), [content[:start]], [content[start:]])


def encode_all(tokenizer: Tokenizer, documents: Sequence[bytes]) -> np.ndarray:
    """Return the tokens of documents, int32 [N], with `END` before each and after the last."""
    end = np.array([END], np.int32)
    parts = (part for document in documents for part in (end, tokenizer.encode(document)))
    return np.concatenate([*parts, end])


def take_batch(key: Array, tokens: Array, batch_size: int, length: int) -> tuple[Array, Array]:
    """Take random windows of the text.

    Args:
        key: of the step; the same key takes the same windows.
        tokens: int32 [N], more than `length`.
        batch_size: B.
        length: T.

    Returns:
        Tokens and the tokens that follow them, both int32 [B, T].
    """
    starts = jax.random.randint(key, (batch_size,), 0, tokens.shape[0] - length)
    windows = tokens[starts[:, None] + jnp.arange(length + 1)[None]]
    return windows[:, :-1], windows[:, 1:]


def spread_windows(tokens: np.ndarray, number: int, length: int) -> np.ndarray:
    """Return at most `number` windows, int32 [W, length + 1], spread evenly over the text.

    Each begins no earlier than the last token of the one before, so no token is predicted twice.
    """
    available = (len(tokens) - 1) // length
    chosen = np.unique(np.linspace(0, available - 1, min(number, available)).astype(int))
    return tokens[chosen[:, None] * length + np.arange(length + 1)]
