"""Which font draws a text, and what none draws."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import ImageFont

from scheduler.results import contact_sheet, fonts
from scheduler.results.contact_sheet import Tile

ASCII, CYRILLIC, IN_NO_FONT = "a large red star (7), at 50%", "большая звезда", "a \U0010fffe star"


@pytest.fixture(autouse=True)
def fontconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Without fontconfig, or with an imitation that names a file."""

    def name(file: Path) -> None:
        program = tmp_path / "fc-match"
        program.write_text(f'#!/bin/sh\nprintf "%s" "{file}"\n')
        program.chmod(0o755)
        fonts._installed.cache_clear()

    fonts._installed.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    yield name
    fonts._installed.cache_clear()


def test_pillows_own_font_draws_ascii_and_lacks_other_scripts() -> None:
    font, missing = fonts.font_for(ASCII, 11)
    assert missing == frozenset()
    assert fonts.missing_in(font, CYRILLIC) == set(CYRILLIC) - {" "}


def test_spaces_and_what_joins_characters_are_not_missing() -> None:
    own = ImageFont.load_default(11)
    assert fonts.missing_in(own, "a \u00a0\u200d\ufe0f\tb\n") == frozenset()


@pytest.mark.parametrize("content", [b"", b"no font"])
def test_what_fontconfig_names_and_is_no_font_is_not_used(
    tmp_path: Path, fontconfig: Callable[[Path], None], content: bytes
) -> None:
    (tmp_path / "named.ttf").write_bytes(content)
    fontconfig(tmp_path / "named.ttf")
    font, missing = fonts.font_for(CYRILLIC, 11)
    assert font is fonts.font_for(ASCII, 11)[0]
    assert missing == set(CYRILLIC) - {" "}


def test_prompts_that_no_font_draws_are_counted() -> None:
    tiles = [Tile(picture=b"", prompt=prompt, note="") for prompt in (ASCII, IN_NO_FONT, "")]
    assert contact_sheet.undrawn(tiles) == 1
