import io
from pathlib import Path

import pytest
from PIL import Image

from scheduler.export.targets import open_target
from scheduler.intake.admission import Submitter
from scheduler.intake.uploads import check_image, upload
from storage.access.uploads import Uploads
from storage.database.connection import Database
from storage.errors import BadSpecification, InvalidInput
from storage.objects.store import open_objects
from storage.settings import Settings


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


@pytest.mark.parametrize(
    ("name", "other"),
    [("rows.csv", "; embeddings are in a file that ends with .safetensors"), ("a.PNG", ""), ("a", "; embeddings .*")],
)
def test_a_file_that_may_be_meant_as_embeddings_is_told_how_they_are_named(
    tmp_path: Path, name: str, other: str
) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    stored = Uploads(Database(f"sqlite:///{tmp_path}/farm.db"), open_objects(Settings(home=tmp_path)))
    with pytest.raises(BadSpecification, match=rf"{name}: not a complete PNG, JPEG or WEBP image{other}$"):
        upload(stored, Submitter(owner="ann", local_files=True), tmp_path / name)


@pytest.mark.parametrize("to", ["", " "])
def test_an_export_to_a_variable_that_is_not_set_goes_nowhere(tmp_path: Path, to: str) -> None:
    with pytest.raises(InvalidInput, match="--to is empty; name a folder"):
        open_target(to, Settings(home=tmp_path))
