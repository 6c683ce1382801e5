"""Byte-pair encoding: a vocabulary of byte strings, learned from how often words occur.

The text is cut into words, whose bytes are the first tokens. Then the most frequent pair of
neighbouring tokens becomes a new token, over and over, until the vocabulary is full. Any bytes can
be encoded, and decode to themselves.

Source: R. Sennrich et al., Neural Machine Translation of Rare Words with Subword Units,
arXiv 1508.07909.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

WORD = re.compile(rb" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")  # every byte is in one of them
END = 256  # the token between two documents; it stands for no byte
LEAST_COUNT = 2  # of a word from whose bytes pairs are learned
Pair = tuple[int, int]


class Tokenizer:
    """A vocabulary of 256 bytes, the token `END`, and one token for each merge.

    Attributes:
        merges: the pairs of tokens that were joined, in order; the first becomes token 257.
        vocabulary: the bytes of each token.
        lengths: number of bytes of each token, int32 [K].
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = tuple(merges)
        self.vocabulary = [bytes([byte]) for byte in range(END)] + [b""]
        for left, right in self.merges:
            self.vocabulary.append(self.vocabulary[left] + self.vocabulary[right])
        self.lengths = np.array([len(token) for token in self.vocabulary], np.int32)
        self._joined = {pair: END + 1 + place for place, pair in enumerate(self.merges)}
        self._words: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        """Return the number of tokens K."""
        return len(self.vocabulary)

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens of a text, int32 [N]."""
        tokens: list[int] = []
        for word in WORD.findall(text):
            if (known := self._words.get(word)) is None:
                known = self._words[word] = self._encode_word(word)
            tokens += known
        return np.array(tokens, np.int32)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of tokens."""
        return b"".join(self.vocabulary[token] for token in tokens)

    def _encode_word(self, word: bytes) -> list[int]:
        """Join pairs in the order in which they were learned."""
        tokens = list(word)
        while known := [self._joined[pair] for pair in pairwise(tokens) if pair in self._joined]:
            first = min(known)
            tokens = _join(tokens, self.merges[first - END - 1], first)
        return tokens


def learn(texts: Iterable[bytes], size: int) -> Iterator[Tokenizer]:
    """Learn a vocabulary.

    Args:
        texts: what to learn from.
        size: number of tokens K, at least 257. A text with few words gives fewer tokens.

    Yields:
        The tokenizer so far: after the words are counted, every 100 merges and at the end.
    """
    counted: Counter[bytes] = Counter()
    for text in texts:
        counted.update(WORD.findall(text))
    words = [(list(word), count) for word, count in counted.items() if count >= LEAST_COUNT]
    merges: list[Pair] = []
    yield Tokenizer(merges)
    counts, places = _pairs(words)
    # the largest count first, and of equal counts the smaller tokens; entries may be out of date
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and END + 1 + len(merges) < size:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        if counts[pair] < LEAST_COUNT:
            break
        new = END + 1 + len(merges)
        merges.append(pair)
        changed: set[Pair] = set()
        for place in places.pop(pair):
            tokens, count = words[place]
            joined = _join(tokens, pair, new)
            for before in pairwise(tokens):
                counts[before] -= count
            for after in pairwise(joined):
                counts[after] += count
                if new in after:
                    places[after].add(place)
                    changed.add(after)
            words[place] = joined, count
        for after in changed:
            heapq.heappush(heap, (-counts[after], after))
        if len(merges) % 100 == 0:
            yield Tokenizer(merges)
    yield Tokenizer(merges)


def _pairs(words: Sequence[tuple[list[int], int]]) -> tuple[Counter[Pair], dict[Pair, set[int]]]:
    """Count the pairs of neighbours in all words, and list the words that have each pair."""
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for place, (tokens, count) in enumerate(words):
        for pair in pairwise(tokens):
            counts[pair] += count
            places[pair].add(place)
    return counts, places


def _join(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """Replace the pair by the new token, from the left."""
    joined: list[int] = []
    for token in tokens:
        if token == pair[1] and joined and joined[-1] == pair[0]:
            joined[-1] = new
        else:
            joined.append(token)
    return joined
