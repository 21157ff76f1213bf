"""Contact sheets."""

import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from scheduler.cli.render import render
from scheduler.cli.sheet import sheet
from scheduler.results.contact_sheet import Tile, draw, write
from storage.errors import InvalidInput

RED, BLUE = (255, 0, 0), (0, 0, 255)


def tile(size: tuple[int, int], colour: tuple[int, int, int], prompt: str = "a red star") -> Tile:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return Tile(picture=file.getvalue(), prompt=prompt, note="000000  seed 1")


def box(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The smallest box that holds every pixel of this colour."""
    mask = Image.new("1", sheet.size)
    mask.putdata([pixel == colour for pixel in sheet.get_flattened_data()])
    found = mask.getbbox()
    assert found is not None
    return found


def test_small_pictures_are_magnified_by_a_whole_factor_and_large_ones_made_to_fit() -> None:
    left, top, right, bottom = box(draw([tile((64, 48), RED)]), RED)
    assert (right - left, bottom - top) == (192, 144)

    left, top, right, bottom = box(draw([tile((1024, 512), RED)]), RED)
    assert (right - left, bottom - top) == (192, 96)


def test_pictures_stand_in_rows_in_their_order() -> None:
    sheet = draw([tile((64, 64), RED), tile((64, 64), BLUE), tile((64, 64), RED)], columns=2)

    red, blue = box(sheet, RED), box(sheet, BLUE)
    assert blue[0] > red[0]
    assert red[3] > blue[3], "the third stands below"


@pytest.mark.parametrize("prompt", ["word " * 500, "x" * 500, "שלום ⭐ " * 9, "two\nlines\tand more"])
def test_a_caption_keeps_to_its_place_whatever_the_prompt(prompt: str) -> None:
    assert draw([tile((64, 64), RED, prompt)]).size == draw([tile((64, 64), RED)]).size


def test_no_picture_makes_no_sheet() -> None:
    with pytest.raises(ValueError, match="no picture"):
        draw([])


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "sheet.png"
    with pytest.raises(InvalidInput, match="nowhere/sheet.png: cannot be written"):
        write(draw([tile((64, 64), RED)]), path)


@pytest.mark.parametrize(
    ("command", "option", "file"),
    [(sheet, "--out", "s.jpg"), (sheet, "--out", "s"), (render, "--sheet", "s.gif")],
)
def test_a_file_that_is_named_as_no_sheet_is_refused(command: click.Command, option: str, file: str) -> None:
    ended = CliRunner().invoke(command, ["x", option, file])
    assert ended.exit_code == 2
    assert f"{option} {file}: a sheet is a .png image or an .html page; name the file so" in ended.output
