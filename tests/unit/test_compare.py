import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scheduler.results.compare import Verdict, changed, compare, compare_with_hash
from storage.objects.pixels import pixels_sha256


def png(*, grey: int = 100, size: tuple[int, int] = (8, 8), note: str = "", one_pixel: int | None = None) -> bytes:
    picture = Image.new("RGB", size, (grey, grey, grey))
    if one_pixel is not None:
        picture.putpixel((3, 3), (grey, grey, one_pixel))
    texts = PngInfo()
    texts.add_text("note", note)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("again", "identical", "difference", "words"),
    [
        (png(), True, 0, "identical to"),
        (png(note="made by a newer farm"), False, 0, "the same picture, in another file, as"),
        (png(one_pixel=101), False, 1, "the same within 1/255 as"),
        (png(one_pixel=40), False, 60, "different (by up to 60/255) from"),
        (png(grey=255), False, 155, "different (by up to 155/255) from"),
        (png(size=(8, 16)), False, None, "of another size than"),
    ],
)
def test_two_pictures_are_told_apart_by_bytes_size_and_largest_difference(
    again: bytes, identical: bool, difference: int | None, words: str
) -> None:
    verdict = compare(png(), again)
    assert verdict == Verdict(identical=identical, largest_difference=difference)
    assert verdict.words() == words
    assert verdict.fields() == {"identical": identical, "largest_difference": difference}


def test_what_a_picture_was_made_with_is_compared_name_by_name() -> None:
    before = {"torch": "2.12.0", "device": "cpu x86_64", "threads": 2}
    assert changed(before, before) == []
    assert changed(before, {"torch": "2.13.0", "device": "cpu x86_64", "dtype": "float32"}) == [
        "dtype None → float32",
        "threads 2 → None",
        "torch 2.12.0 → 2.13.0",
    ]


def test_pixels_that_are_known_by_their_hash_are_the_same_or_not() -> None:
    with Image.open(io.BytesIO(png(note="a"))) as picture:
        known = pixels_sha256(picture)
    same, other = compare_with_hash(known, png(note="b")), compare_with_hash(known, png(one_pixel=101))
    assert (same.identical, same.words()) == (True, "identical to")
    assert (other.identical, other.words()) == (False, "different from")


def test_what_galleries_are_told_changes_no_picture() -> None:
    before = {"loras": {"ink": {"weights": "a"}}, "weights": "b"}
    after = {"loras": {"ink": {"weights": "a", "past_header": "c"}}, "weights": "b", "sha256": "d"}
    assert changed(before, after) == []
    assert changed(before, {**after, "weights": "e"}) == ["weights b → e"]
