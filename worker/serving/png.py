"""PNG files written fast: Pillow tries five filters on every row, one byte at a time; here one is computed on many.

Nearly always Pillow chooses Paeth's filter for pictures with grain or gradients. With that one alone files have the
same size, and are written in less than half of the time (benchmarks/README.md, figure 9). The format: RFC 2083.
"""

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

Bytes = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Mode of a picture → colour type of eight bits a channel.
_COLOUR_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_PAETH = 4
#: Rows that are filtered at once: what is computed of them stays in the processor's cache.
_ROWS = 32
#: Most of the time goes into Huffman's codes: a quicker strategy finds no runs, which plain pictures are made of.
_STRATEGY = zlib.Z_RLE


def write_png(picture: Image, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a lossless PNG, with these chunks (type, content) before its pixels. Raises KeyError for another mode."""
    header = struct.pack(">IIBBBBB", *picture.size, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0)
    compressor = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, _STRATEGY)
    pixels = compressor.compress(_filtered(picture).data) + compressor.flush()
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"".join([_SIGNATURE, *(_chunk(kind, content) for kind, content in parts)])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _filtered(picture: Image) -> Bytes:
    """Return (height, 1 + width × channels) bytes: each row after its filter's number."""
    height, channels = picture.height, len(picture.getbands())
    row = picture.width * channels
    # Above the first row and before each first pixel there is black.
    pixels = np.zeros((height + 1, channels + row), np.uint8)
    pixels[1:, channels:] = np.asarray(picture).reshape(height, row)
    out = np.empty((height, 1 + row), np.uint8)
    out[:, 0] = _PAETH
    for top in range(0, height, _ROWS):
        above, here = pixels[top : min(top + _ROWS, height)], pixels[top + 1 : top + 1 + _ROWS]
        predicted = paeth(here[:, :-channels], above[:, channels:], above[:, :-channels])
        np.subtract(here[:, channels:], predicted, out=out[top : top + _ROWS, 1:])
    return out


def paeth(left: Bytes, above: Bytes, corner: Bytes) -> Bytes:
    """Return whichever of the three is nearest to left + above − corner, in this order where several are.

    In bytes alone, many of which a processor handles in one instruction. With p the sum, |p − left| = |above − corner|,
    |p − above| = |left − corner|, and |p − corner| is the difference of these two where the corner lies between left
    and above; elsewhere it is their sum, and the corner never the nearest.
    """
    from_left, from_above = _distance(above, corner), _distance(left, corner)
    from_corner = _distance(from_left, from_above)
    outside = (corner <= np.minimum(left, above)) | (corner >= np.maximum(left, above))
    # Farther than any distance of two bytes, or as far.
    from_corner |= _mask(outside)
    nearest = _either(from_above <= from_corner, above, corner)
    return _either((from_left <= from_above) & (from_left <= from_corner), left, nearest)


def _distance(one: Bytes, other: Bytes) -> Bytes:
    return np.maximum(one, other) - np.minimum(one, other)


def _either(first: NDArray[np.bool_], one: Bytes, other: Bytes) -> Bytes:
    """As `np.where`, which takes ten times as long."""
    return ((one ^ other) & _mask(first)) ^ other


def _mask(true: NDArray[np.bool_]) -> Bytes:
    """Return 255 for true, 0 for false."""
    mask: Bytes = np.negative(true.view(np.uint8))
    return mask
