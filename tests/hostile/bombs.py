"""What unpacks to more than it says: the traps of `tests/unit/test_bounds.py`, as they arrive over HTTP."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.hostile.documented import multipart


@dataclass(frozen=True, kw_only=True)
class Bomb:
    """A request that costs its receiver more than its sender."""

    name: str
    path: str
    content_type: str
    content: bytes
    #: A file that is accepted is then rendered from: where the trap snaps shut.
    is_manifest: bool = False


def bombs() -> list[Bomb]:
    """Make them all; some MiB each at most."""
    found = [_upload(what, f"prompts.{kind}", "manifest", file) for (what, kind), file in _manifests().items()]
    found += [_upload(name, name, "input", file) for name, file in _inputs().items()]
    found += [_upload("nested", "requests.jsonl", "batch", b'{"custom_id": "a", "x": ' + b"[" * 500_000)]
    for what, text in _bodies().items():
        content = text.encode()
        found += [
            Bomb(name=f"JSON: {what}", path=path, content_type="application/json", content=content)
            for path in ("/v1/renders", "/sdapi/v1/txt2img", "/v1/predictions")
        ]
    # Writing them took much more than they are.
    pyarrow.default_memory_pool().release_unused()
    return found


def _upload(what: str, name: str, purpose: str, file: bytes) -> Bomb:
    content_type, content = multipart(name, purpose, file)
    return Bomb(
        name=f"{purpose}: {what} in {name}",
        path="/v1/files",
        content_type=content_type,
        content=content,
        is_manifest=purpose == "manifest",
    )


def _png(width: int, height: int, *, text: bytes = b"") -> bytes:
    """Write the PNG of a picture whose pixels are all black; `text`: of a compressed comment."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    head = struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(height * (1 + (width + 7) // 8), 2**24)), 9)
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text, 9)) if text else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + comment + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _jpeg() -> tuple[bytes, bytes]:
    """Write two JPEGs: one of very many segments, and one whose last scan comes again and again."""
    written = io.BytesIO()
    Image.new("L", (4000, 4000)).save(written, "JPEG", progressive=True)
    made = written.getvalue()
    segments = made[:2] + b"\xff\xeb\0\x02" * 1_000_000 + made[2:]
    return segments, made[:-2] + made[made.rindex(b"\xff\xda") : -2] * 1000 + b"\xff\xd9"


def _parquet(table: pyarrow.Table) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written, compression="zstd")
    return written.getvalue()


def _safetensors(header: bytes, *, told: int | None = None) -> bytes:
    return (len(header) if told is None else told).to_bytes(8, "little") + header


def _multiplying() -> bytes:
    text = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrst"))
    return text.encode()


def _inputs() -> Mapping[str, bytes]:
    tensors = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}
    segments, scans = _jpeg()
    return {
        "segments.jpg": segments,
        "scans.jpg": scans,
        "65535 squared.png": _png(65535, 65535),
        "8000 squared.png": _png(8000, 8000),
        "comment.png": _png(64, 64, text=bytes(2**26)),
        "header.safetensors": _safetensors(json.dumps(tensors).encode()),
        "long header.safetensors": _safetensors(b"{}", told=2**40),
        "nested.safetensors": _safetensors(b'{"a":' + b"[" * 100_000),
    }


def _manifests() -> Mapping[tuple[str, str], bytes]:
    """What it is, extension → file. In YAML no prompt file is written, under whichever name."""
    return {
        ("cell", "parquet"): _parquet(pyarrow.table({"prompt": ["a" * 120_000_000]})),
        ("rows", "parquet"): _parquet(pyarrow.table({"prompt": ["a" * 500_000] * 1000})),
        ("list", "parquet"): _parquet(
            pyarrow.table(
                {"prompt": ["a"], "tags": pyarrow.ListArray.from_arrays([0, 20_000_000], pyarrow.repeat(0, 20_000_000))}
            )
        ),
        ("quote", "csv"): b"prompt\n" + b'"a\n",' * 1_000_000,
        ("columns", "csv"): b"prompt," + b",".join(b"c%d" % n for n in range(200_000)) + b"\na\n",
        ("block", "txt"): b"Negative prompt: blurry\n" + (b"more and more words " * 5 + b"\n") * 40_000,
        ("line", "txt"): b"a" * 8_000_000,
        ("keys", "jsonl"): b"{" + b"".join(b'"k%d": 1,' % n for n in range(300_000)) + b'"prompt": "a"}',
        ("nested", "json"): b"[" * 1_000_000,
        ("aliases", "yaml"): _multiplying(),
        ("aliases", "txt"): _multiplying(),
    }


def _bodies() -> Mapping[str, str]:
    picture = base64.b64encode(_inputs()["8000 squared.png"]).decode()
    return {
        "nested": '{"prompt": ' + "[" * 500_000,
        "nested and closed": '{"prompt": "a", "labels": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        "very many keys": "{" + "".join(f'"k{n}": 1,' for n in range(200_000)) + '"prompt": "a"}',
        "a long number": '{"prompt": "a", "seed": ' + "9" * 1_000_000 + "}",
        "very many lists": '{"prompt": [' + "[]," * 1_000_000 + "[]]}",
        "a long product": json.dumps(
            {
                "prompt": "a",
                "product": {name: list(range(1, 1000)) for name in ("seed", "num_inference_steps", "width")},
            }
        ),
        "a large body": '{"prompt": "' + "a" * (15 * 2**20) + '"}',
        "a body too large": '{"prompt": "' + "a" * (17 * 2**20) + '"}',
        "escapes": '{"prompt": "' + "\\u0000" * 1_000_000 + '"}',
        "a picture in a picture": json.dumps(
            {"prompt": "a", "alwayson_scripts": {"controlnet": {"args": [{"image": picture}] * 8}}}
        ),
        "a template": json.dumps({"prompt": "{a|b}" * 1500}),
    }
