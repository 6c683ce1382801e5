"""Archives of xz with several blocks, decoded on all cores: with one, CIFAR-10 takes ten seconds.

Source: the .xz file format, https://tukaani.org/xz/xz-file-format.txt
"""

import lzma
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path

HEADER = FOOTER = 12  # bytes
MAGIC, END = b"\xfd7zXZ\0", b"YZ"


def unpack_xz(archive: Path, most_bytes: int) -> bytes | None:
    """Decode an archive of one stream with several blocks; None if it is not one, or larger.

    Args:
        archive: the file.
        most_bytes: largest size of the result.

    Raises:
        LZMAError: a block is damaged.
    """
    content = archive.read_bytes()
    sizes = _sizes(content)
    if sizes is None or len(sizes) < 2 or sum(size for _, size in sizes) > most_bytes:
        return None
    starts = accumulate((packed for packed, _ in sizes), initial=HEADER)

    def decode(place: tuple[tuple[int, int], int]) -> bytes:
        (start, end), size = place
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        return decoder.decompress(content[:HEADER] + content[start:end], size)

    blocks = zip(pairwise(starts), (size for _, size in sizes), strict=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return b"".join(pool.map(decode, blocks))


def _sizes(content: bytes) -> list[tuple[int, int]] | None:
    """Read each block's packed and unpacked size in bytes from the index at the end of the file."""
    if not (content.startswith(MAGIC) and content.endswith(END)):
        return None
    end = len(content) - FOOTER
    position = begin = end - 4 * (int.from_bytes(content[end + 4 : end + 8], "little") + 1)

    def number() -> int:
        """Read seven bits of each byte, the lowest first; the last byte has no eighth bit."""
        nonlocal position
        value = 0
        for shift in range(0, 63, 7):
            byte = content[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise IndexError("a longer number than the format allows")

    if begin < HEADER:
        return None
    try:
        marker, blocks = number(), number()
        sizes = [(-(-number() // 4) * 4, number()) for _ in range(blocks)]
    except IndexError:  # a damaged index
        return None
    if marker != 0:
        return None
    # nothing is between the blocks and the index, as there would be with several streams
    return sizes if HEADER + sum(packed for packed, _ in sizes) == begin else None
