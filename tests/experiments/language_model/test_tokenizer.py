"""Byte-pair encoding: any bytes come back, and the merges are those of the definition."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

from experiments.language_model.tokenizer import END, WORD, Tokenizer, learn

TEXT = b"low low low lower lower newest newest newest widest wide 10 100 100 100\n    low\n    low"


def learned(text: bytes, size: int) -> Tokenizer:
    *_, tokenizer = learn([text], size)
    return tokenizer


TOKENIZER = learned(TEXT, END + 30)


@given(st.binary(max_size=200) | st.text(" \nlowerst1", max_size=100).map(str.encode))
def test_any_bytes_decode_to_themselves(text):
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text
    assert END not in tokens
    assert TOKENIZER.lengths[tokens].sum() == len(text)


def merges_by_definition(text: bytes, number: int) -> list[tuple[int, int]]:
    """Count all pairs anew for every merge."""
    counted = Counter(WORD.findall(text))
    words = [(list(word), count) for word, count in counted.items() if count > 1]
    merges = []
    for new in range(END + 1, END + 1 + number):
        counts = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                counts[pair] += count
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(pair)
        for tokens, _ in words:
            place = 0
            while place < len(tokens) - 1:
                if (tokens[place], tokens[place + 1]) == pair:
                    tokens[place : place + 2] = [new]
                place += 1
    return merges


def test_the_most_frequent_pair_is_joined_first_and_counted_as_it_changes():
    assert list(TOKENIZER.merges[:12]) == merges_by_definition(TEXT, 12)
    assert TOKENIZER.vocabulary[END + 1] == b"lo"


def test_pairs_that_overlap_are_joined_from_the_left():
    text = b"aaa aaa aaaa aaaa aaaaa aaaaa"
    merges = learned(text, END + 4).merges
    assert list(merges) == merges_by_definition(text, len(merges))


def test_frequent_words_become_one_token():
    (token,) = TOKENIZER.encode(b" low")
    assert TOKENIZER.vocabulary[token] == b" low"
    np.testing.assert_array_equal(TOKENIZER.encode(b"z"), [ord("z")])


@pytest.mark.parametrize("text", [b"", b"a b c", b"ab ab"])
def test_a_text_with_few_words_gives_fewer_tokens(text):
    assert END < len(learned(text, END + 50)) < END + 50
