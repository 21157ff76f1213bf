"""Text in the lowest bits of a picture's pixels, where NovelAI and an extension of the web UI write it, too.

Column by column: a mark, the number of bits in 32 bits, then the text, mostly packed by gzip. Source: NovelAI's
nai_meta.py, and the extension sd_webui_stealth_pnginfo.
"""

import zlib

from PIL import Image

#: Marks → channels of a pixel that hold a bit each, and whether the text is packed.
_MARKS = {
    b"stealth_pngcomp": ("A", True),
    b"stealth_pnginfo": ("A", False),
    b"stealth_rgbcomp": ("RGB", True),
    b"stealth_rgbinfo": ("RGB", False),
}
_MARK_BITS, _LENGTH_BITS = 8 * 15, 32
#: Bytes of text, unpacked: as much as is read of a file's other texts.
_MOST = 16_000_000
_LOWEST = bytes(ord("0") + (value & 1) for value in range(256))


def stealth_text(picture: Image.Image) -> str | None:
    """Return the text in a picture's pixels, None if there is none. Raises what decoding its pixels raises."""
    if picture.mode not in ("RGB", "RGBA"):
        return None
    for mark, (channels, packed) in _MARKS.items():
        if channels == "A" and picture.mode == "RGB":
            continue
        start = _MARK_BITS + _LENGTH_BITS
        head = _bytes(_bits(picture, channels, start))
        if not head.startswith(mark):
            continue
        count = int.from_bytes(head[len(mark) :])
        if count > picture.width * picture.height * len(channels) - start:
            return None
        return _text(_bytes(_bits(picture, channels, start + count)[start:]), packed=packed)
    return None


def _bits(picture: Image.Image, channels: str, count: int) -> bytes:
    """Return the first bits, each as the letter 0 or 1."""
    columns = min(-(-count // (picture.height * len(channels))), picture.width)
    part = picture.crop((0, 0, columns, picture.height)).transpose(Image.Transpose.TRANSPOSE)
    values = part.getchannel("A") if channels == "A" else part.convert("RGB")
    return values.tobytes().translate(_LOWEST)[:count]


def _bytes(bits: bytes) -> bytes:
    whole = len(bits) // 8
    return int(bits[: 8 * whole] or b"0", 2).to_bytes(whole)


def _text(data: bytes, *, packed: bool) -> str | None:
    try:
        # 31: with gzip's header.
        return (zlib.decompressobj(31).decompress(data, _MOST) if packed else data).decode()
    except (zlib.error, UnicodeDecodeError):
        return None
