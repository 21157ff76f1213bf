import io

import pytest
from PIL import Image

from scheduler.intake.uploads import check_image


def written(*pictures: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    first, *others = pictures
    first.save(file, kind, **({"save_all": True, "append_images": others} if others else {}), **settings)
    return file.getvalue()


RED, BLUE = (Image.new("RGB", (16, 24), colour) for colour in ("red", "blue"))


def test_photos_of_phones_are_pictures_with_more_behind_them() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    photo = written(RED, BLUE, kind="MPO", exif=turned)

    check_image(photo)

    # As the worker opens it: the photo, not the preview.
    with Image.open(io.BytesIO(photo)) as opened:
        assert (opened.format, getattr(opened, "n_frames", 1)) == ("MPO", 2)
        red, _, blue = opened.convert("RGB").getpixel((8, 8))  # type: ignore[misc]
        assert red > 200 > 50 > blue


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="an animation of 2 frames; a single picture is required"):
        check_image(written(RED, BLUE, kind=kind, lossless=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_single_pictures_are_taken(kind: str) -> None:
    check_image(written(RED, kind=kind))


def test_what_is_no_image_is_refused_without_the_words_of_a_library() -> None:
    with pytest.raises(ValueError, match=r"^not a complete PNG, JPEG or WEBP image$"):
        check_image(b"this is no picture")
