"""The text and its split, and windows of its tokens."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model.data import (
    DataError,
    encode_all,
    read_text,
    spread_windows,
    take_batch,
)
from experiments.language_model.tokenizer import END, Tokenizer


def test_the_library_is_split_by_file_and_the_same_every_time():
    text, again = read_text(None, 300_000), read_text(None, 300_000)
    assert text.sha256 == again.sha256
    assert 200_000 < text.size <= 300_000
    assert set(text.train).isdisjoint(text.held_out)
    assert len(text.held_out) == -(-(len(text.train) + len(text.held_out)) // 10)


def test_more_bytes_keep_the_documents_that_fewer_bytes_have():
    few, more = read_text(None, 100_000), read_text(None, 1_000_000)
    assert few.held_out[0] == more.held_out[0]
    assert len(more.train) > len(few.train)


def test_the_last_lines_of_a_file_are_held_out(tmp_path):
    path = tmp_path / "my text"
    path.write_bytes(b"0123456789\n" * 100)
    text = read_text(path, 1_000)
    (train,), (held_out,) = text.train, text.held_out
    assert train + held_out == path.read_bytes()[:1_000]
    assert train.endswith(b"\n")
    assert 100 <= len(held_out) < 111
    digest = hashlib.sha256()
    for part in (train, held_out):
        digest.update(len(part).to_bytes(8, "little") + part)
    assert text.sha256 == digest.hexdigest()


@pytest.mark.parametrize("name", ["", "missing", "empty", "\0"])
def test_a_file_that_has_no_text_is_one_line(tmp_path, name):
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r": expected (a file of text|text to train)") as caught:
        read_text(tmp_path / name, 100)
    assert len(str(caught.value).splitlines()) == 1


def test_documents_are_set_apart():
    tokens = encode_all(Tokenizer([(97, 98)]), [b"ab", b"", b"c"])
    assert tokens.tolist() == [END, END + 1, END, END, 99, END]


def test_a_batch_has_the_tokens_that_follow_and_every_window_can_be_taken():
    text = jnp.arange(100, 112, dtype=jnp.int32)
    taken = [take_batch(jax.random.key(seed), text, 8, 9) for seed in range(4)]
    first = set()
    for tokens, labels in taken:
        assert tokens.shape == labels.shape == (8, 9)
        np.testing.assert_array_equal(tokens[:, 1:], labels[:, :-1])
        np.testing.assert_array_equal(labels, tokens + 1)
        first |= set(np.asarray(tokens[:, 0]).tolist())
    assert first == {100, 101, 102}


def test_windows_are_spread_over_the_text_and_predict_no_token_twice():
    tokens = np.arange(101, dtype=np.int32)
    np.testing.assert_array_equal(spread_windows(tokens, 99, 10)[:, 1:].ravel(), tokens[1:])
    windows = spread_windows(tokens, 4, 10)
    np.testing.assert_array_equal(windows[:, 0], [0, 30, 60, 90])
