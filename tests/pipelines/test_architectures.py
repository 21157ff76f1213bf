"""Every control of every architecture: a value of its own changes the picture, or is refused, or a word is said."""

from typing import Any

import pytest

from tests.pipelines.architectures import ARCHITECTURES, SLOW, VARIANTS, WELL_KNOWN, packages_missing
from tests.pipelines.prompt_cuts import TRIED, check_cut
from tests.pipelines.test_families import ELSEWHERE
from tests.pipelines.tried import Tried

pytestmark = pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts

#: A value of each control that is not its default; several where they go different ways.
CONTROLS: dict[str, tuple[Any, ...]] = {
    "prompt": ("a blue cross",),
    "negative_prompt": ("a grey thing",),
    "guidance_scale": (1.0, 2.0, 12.0),
    "num_inference_steps": (5,),
    "seed": (9,),
    "sampler": ("heun", "dpm++ 2m karras"),
    "eta": (0.7,),
    "clip_skip": (1,),
    "width": (128,),
    "height": (128,),
    "original_size": ((512, 256),),
    "crops_coords_top_left": ((32, 16),),
    "target_size": ((256, 512),),
    "guess_mode": (True,),
    "controlnet_conditioning_scale": (0.3,),
    "prior_num_inference_steps": (7,),
    "prior_guidance_scale": (9.0,),
}


@pytest.fixture(scope="module", params=[name for name in (*WELL_KNOWN, *ARCHITECTURES) if name not in VARIANTS | SLOW])
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    if absent := packages_missing(request.param):
        pytest.skip(f"{', '.join(absent)} is not installed")
    return Tried(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_changes_the_picture_or_is_refused_or_a_word_is_said(tried: Tried, control: str) -> None:
    plain = tried.spec()
    for value in CONTROLS[control]:
        spec = tried.accepted(**{control: value})
        if spec is None:
            continue
        drawn = tried.drawn(spec)
        assert drawn.shape == (spec.height, spec.width, 3), value
        if drawn.shape != tried.drawn(plain).shape or (drawn != tried.drawn(plain)).any():
            continue
        assert any(control in remark for remark in tried.said(spec)), value


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
def test_a_negative_prompt_is_read_or_a_word_is_said_at_every_guidance_scale(tried: Tried, guidance: float) -> None:
    plain = tried.spec(guidance_scale=guidance)
    spec = tried.accepted(guidance_scale=guidance, negative_prompt="a grey thing")
    if spec is None:
        return
    differs = bool((tried.drawn(spec) != tried.drawn(plain)).any())
    # How far it is read is another matter.
    said = [remark for remark in tried.said(spec) if "reads no more tokens" not in remark]
    assert differs != any(remark.startswith("negative_prompt") for remark in said)


def test_what_is_said_to_be_ignored_is(tried: Tried) -> None:
    """Of the families that test_families.py does not load."""
    if tried.name in ELSEWHERE & TRIED.keys():
        for field in ("prompt", "negative_prompt"):
            check_cut(tried.name, tried, field)
