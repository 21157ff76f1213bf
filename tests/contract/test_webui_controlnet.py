"""Units of ControlNet's extension at the web UI's door: what each field does to a picture, or why it is refused."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import webuiapi
from PIL import Image

from storage.objects.inputs import get_input
from tests.contract.stage import Stage, png, running_stage
from tests.contract.webui import Drawn


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("controlnet") / "home") as stage:
        yield stage


_NET = {"sd_model_checkpoint": "net"}


def picture(width: int, height: int, colour: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


#: Every field of a unit of ControlNet's extension → a value other than its default.
UNIT: Mapping[str, Any] = {
    "module": "canny",
    "model": "control_v11p_sd15_scribble",
    "weight": 0.5,
    "image": picture(8, 8, "blue"),
    "mask": picture(8, 8),
    "mask_image": picture(8, 8),
    "resize_mode": "Just Resize",
    "low_vram": True,
    "processor_res": 768,
    "threshold_a": 100.0,
    "threshold_b": 200.0,
    "guidance_start": 0.2,
    "guidance_end": 0.7,
    "pixel_perfect": True,
    "control_mode": "ControlNet is more important",
    "guessmode": True,
    "inpaint_crop_input_image": False,
    "hr_option": "High res only",
    "save_detected_map": False,
    "advanced_weighting": [0.5] * 12,
    "effective_region_mask": picture(8, 8),
    "pulid_mode": "Extreme style",
    "union_control_type": "Canny",
    "ipadapter_input": ["x"],
    "batch_images": "folder",
}
#: Those that say nothing of the picture.
BESIDE = {"low_vram", "save_detected_map", "inpaint_crop_input_image"}


@pytest.mark.parametrize("field", sorted(UNIT))
def test_every_field_of_a_controlnet_unit_changes_the_picture_or_is_refused(stage: Stage, field: str) -> None:
    def drawn(**more: Any) -> Drawn:
        unit = {"image": picture(16, 8), **more}
        scripts = {"controlnet": {"args": [unit]}}
        return Drawn(stage, seed=5, override_settings=_NET, alwayson_scripts=scripts)

    plain, other = drawn(), drawn(**{field: UNIT[field]})
    assert plain.status == 200, plain.words
    if other.status != 200:
        assert other.words.startswith("alwayson_scripts: ")
        assert field in other.words
    elif field in ("processor_res", "threshold_a", "threshold_b", "pixel_perfect"):
        assert [remark for remark in other.remarks if f"{field} changes nothing without a module" in remark]
    else:
        assert (other.spec == plain.spec) == (field in BESIDE)


@pytest.mark.parametrize(
    ("mode", "centre", "corner"),
    [
        ("Just Resize", "red", "blue"),
        ("Crop and Resize", "red", "red"),
        (1, "red", "red"),
        ("Resize and Fill", "red", "blue"),
        (None, "red", "red"),
    ],
)
def test_a_control_image_is_brought_to_the_pictures_proportions(
    stage: Stage, mode: Any, centre: str, corner: str
) -> None:
    image = Image.new("RGB", (128, 64), "blue")
    image.paste(Image.new("RGB", (64, 64), "red"), (32, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    unit = {"image": base64.b64encode(buffer.getvalue()).decode(), "resize_mode": mode}
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts={"ControlNet": {"args": [unit]}})
    data = get_input(stage.services.objects, drawn.spec["control_images"][0])
    stored = Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64))
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    assert stored.getpixel((32, 32)) == colours[centre]
    assert stored.getpixel((1, 1)) == colours[corner]


def test_a_control_image_of_the_pictures_proportions_is_kept_to_the_byte(stage: Stage) -> None:
    unit = webuiapi.ControlNetUnit(image=Image.open(io.BytesIO(png()))).to_dict()
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts={"ControlNet": {"args": [unit]}})
    assert drawn.remarks == []
    assert get_input(stage.services.objects, drawn.spec["control_images"][0]) == base64.b64decode(unit["image"])


@pytest.mark.parametrize("model", ["None", "", None, "somewhere/net", "net", "net [abcd1234]"])
def test_a_unit_may_name_the_models_own_controlnet(stage: Stage, model: str | None) -> None:
    scripts = {"controlnet": {"args": [{"image": picture(8, 8), "model": model}, {"enabled": False, "module": "x"}]}}
    assert Drawn(stage, override_settings=_NET, alwayson_scripts=scripts).status == 200


@pytest.mark.parametrize("args", [["on"], [5], {"image": "x", "module": "canny"}])
def test_a_unit_that_is_no_unit_is_refused(stage: Stage, args: Any) -> None:
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts={"controlnet": {"args": args}})
    assert (drawn.status, drawn.words.partition(":")[0]) == (422, "alwayson_scripts")


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ({"weight": 10**400}, "weight must be a number"),
        ({"weight": True}, "weight must be a number"),
        ({"enabled": "false"}, "enabled must be true or false"),
        ({"input_image": picture(8, 8, "blue")}, "input_image is its image"),
        ({"guidance": 0.5, "guidance_end": 0.7}, "guidance is its guidance_end"),
    ],
)
def test_what_a_unit_says_twice_or_in_no_number_is_refused_by_its_name(
    stage: Stage, unit: dict[str, Any], words: str
) -> None:
    scripts = {"controlnet": {"args": [{"image": picture(8, 8), **unit}]}}
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts=scripts)
    assert drawn.status == 422
    assert f"alwayson_scripts: ControlNet's {words}" in drawn.words


@pytest.mark.parametrize("script", [{"arg": [{"image": picture(8, 8)}]}, {"ad_model": "face", "args": []}])
@pytest.mark.parametrize("name", ["controlnet", "ADetailer"])
def test_what_stands_beside_an_extensions_args_is_refused(stage: Stage, name: str, script: dict[str, Any]) -> None:
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts={name: script})
    assert (drawn.status, drawn.words.partition(":")[0]) == (422, "alwayson_scripts")
    assert f"{name} has '{next(iter(script))}' beside its args" in drawn.words


def test_units_under_two_spellings_of_the_extension_are_all_counted(stage: Stage) -> None:
    scripts = {name: {"args": [{"image": picture(8, 8)}]} for name in ("ControlNet", "controlnet")}
    drawn = Drawn(stage, override_settings=_NET, alwayson_scripts=scripts)
    assert "has 1 ControlNet, and 2 units are given" in drawn.words
