"""Contact sheets to click through, and what they find."""

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from scheduler.results.contact_sheet import Tile
from scheduler.results.html_sheet import write
from scheduler.results.picture_checks import PictureChecks
from storage.errors import InvalidInput
from tests.contract.renders import pictures


def picture(colour: tuple[int, int, int], size: int = 64) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def tile(prompt: str, *, remarks: tuple[str, ...] = (), size: int = 64) -> Tile:
    file = io.BytesIO()
    picture((200, 30, 30), size).save(file, "PNG")
    return Tile(picture=file.getvalue(), prompt=prompt, note="000000  seed 7", remarks=remarks)


def test_a_page_shows_every_picture_with_what_is_said_of_it(tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    tiles = [tile("a <b>red</b> star & more"), tile("großer Stern ⭐", remarks=("same as 000000",), size=1024)]

    assert write(iter(tiles), page, title="render x", findings=PictureChecks()) == 2

    text = page.read_text()
    assert "a &lt;b&gt;red&lt;/b&gt; star &amp; more" in text
    assert "großer Stern ⭐" in text
    assert "<mark>same as 000000</mark>" in text
    assert len(re.findall(r'src="data:image/webp;base64,[A-Za-z0-9+/=]+"', text)) == 2
    assert len(text) < 40_000  # thumbnails, not pictures
    HTMLParser().feed(text)


def test_a_page_tells_what_was_found_in_all_of_its_pictures(tmp_path: Path) -> None:
    findings = PictureChecks()

    def looked_at() -> Iterator[Tile]:
        for number, spec in enumerate(pictures(3)):
            findings.look(f"{number:06d}", spec, picture((200, 30, 30)))
            yield tile("a star")

    write(looked_at(), tmp_path / "sheet.html", title="render x", findings=findings)

    assert 'const found = "2 duplicates"' in (tmp_path / "sheet.html").read_text()


def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    write([tile("a star")], page, title="render x", findings=PictureChecks())
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|import ', page.read_text())


def test_a_page_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        write([tile("a star")], tmp_path / "nowhere" / "sheet.html", title="render x", findings=PictureChecks())
    assert list(tmp_path.iterdir()) == []


def test_duplicates_and_black_pictures_are_found() -> None:
    one, two, three, four = pictures(4)
    findings = PictureChecks()
    assert findings.look("000000", one, picture((200, 30, 30))) == []
    assert findings.look("000001", two, picture((200, 30, 30))) == ["same as 000000"]
    # SourcedRequest for twice; the last bit is that of another batch.
    assert findings.look("000002", one, picture((200, 30, 31))) == ["same as 000000"]
    assert findings.look("000003", three, picture((2, 3, 4))) == ["nearly black"]
    assert findings.look("000004", four, picture((30, 30, 30))) == []
    assert (findings.pictures, findings.duplicates, findings.dark) == (5, 2, 1)
    assert findings.words() == "2 duplicates, 1 nearly black"


def test_pictures_of_other_sizes_are_no_duplicates() -> None:
    one, two = pictures(2)
    findings = PictureChecks()
    findings.look("000000", one, picture((200, 30, 30), 64))
    assert findings.look("000001", two, picture((200, 30, 30), 32)) == []
    assert findings.words() == ""
