"""Pickled files that cannot be made safetensors files say why, whatever is wrong with them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from worker.rendering import to_safetensors


def _of(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda: b"", "it is empty; fetch or copy it again"),
        (lambda: b"<!doctype html>", "it is a web page"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (lambda: b"PK\x03\x04 cut short", "it cannot be read; fetch it again"),
        (lambda: _of({"a": torch.ones(2)})[:300], "it cannot be read; fetch it again"),
        (lambda: safetensors.torch.save({"a": torch.ones(2)}), "by another name; call it odd.safetensors"),
        (lambda: _of([torch.ones(2)]), "there are no tensors in it by name"),
        (lambda: _of({1: torch.ones(1), "1": torch.zeros(1)}), "names that are written alike"),
        (lambda: _of({"a": torch.eye(3).to_sparse()}), "a is sparse, which a safetensors file cannot have"),
        (lambda: _of({"a": torch.ones(2, device="meta")}), "a is without contents"),
    ],
    ids=range(10),
)
def test_what_cannot_be_converted_says_why(written: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "odd.ckpt").write_bytes(written())
    refused = CliRunner().invoke(to_safetensors.main, [str(tmp_path / "odd.ckpt")])
    assert (refused.exit_code, words in refused.output) == (1, True), refused.output
    assert [file.name for file in tmp_path.iterdir()] == ["odd.ckpt"]
