"""Archives of xz: several blocks give the same bytes, all others are left to Python's library."""

import lzma
import zlib

import numpy as np
import pytest

from experiments.cifar10.data.xz import unpack_xz

CONTENT = np.random.default_rng(0).integers(0, 9, 1000, dtype=np.uint8).tobytes()
PIECES = CONTENT[:300], CONTENT[300:301], CONTENT[301:]


def number(value: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last have the eighth bit."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + number(rest) if rest else bytes([low])


def checked(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def in_blocks(*pieces: bytes) -> bytes:
    """A stream with a block for each piece, by the definition of the format."""
    blocks, index = [], b"\0" + number(len(pieces))
    for piece in pieces:
        alone = lzma.compress(piece, check=lzma.CHECK_CRC64)
        backward = 4 * (int.from_bytes(alone[-8:-4], "little") + 1)
        own_index = alone[-12 - backward : -12]
        start = 3 if own_index[2] < 0x80 else 4  # after the size in the file
        assert own_index[:2] == b"\0\1"
        block = alone[12 : -12 - backward]
        blocks.append(block)
        index += own_index[2:start] + number(len(piece))
    index = checked(index + bytes(-len(index) % 4))
    header = lzma.compress(b"", check=lzma.CHECK_CRC64)[:12]
    body = (len(index) // 4 - 1).to_bytes(4, "little") + header[6:8]
    footer = zlib.crc32(body).to_bytes(4, "little") + body + b"YZ"
    return header + b"".join(blocks) + index + footer


@pytest.fixture
def archive(tmp_path):
    def write(content: bytes):
        (tmp_path / "a.xz").write_bytes(content)
        return tmp_path / "a.xz"

    return write


def test_blocks_are_put_together(archive):
    stream = in_blocks(*PIECES)
    assert lzma.decompress(stream) == CONTENT
    assert unpack_xz(archive(stream), 10_000) == CONTENT


def test_others_are_left_to_python(archive):
    blocks = in_blocks(*PIECES)
    for content in (
        lzma.compress(CONTENT),  # one block
        blocks + blocks,  # two streams
        blocks[:-1],
        blocks[:100],
        b"",
        CONTENT,
        blocks[:-24] + b"\xff" * 12 + blocks[-12:],  # a damaged index
    ):
        assert unpack_xz(archive(content), 10_000) is None
    assert unpack_xz(archive(blocks), 999) is None


def test_a_damaged_block_is_an_error(archive):
    stream = in_blocks(*PIECES)
    with pytest.raises(lzma.LZMAError):
        unpack_xz(archive(stream[:30] + bytes(20) + stream[50:]), 10_000)
