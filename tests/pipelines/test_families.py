"""Every family of pipelines as a queued job: what Diffusers' own call draws, whatever is drawn beside it."""

import inspect
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image

from storage.errors import BadSpecification
from storage.spec.capabilities import pipeline_of, taken_controls
from storage.spec.picture import Spec
from storage.spec.profiles import Profile, family_of, profile_of
from tests.pipelines import architectures, example_entries
from tests.pipelines.architectures import ARCHITECTURES, WELL_KNOWN
from tests.pipelines.prompt_cuts import TRIED, check_cut, check_failure
from tests.pipelines.test_profiles import LEARNED
from tests.pipelines.tried import Tried
from worker.rendering.backend import Abandoned

pytestmark = pytest.mark.filterwarnings("ignore")  # of Diffusers, about its own parts

#: Where Diffusers' own call would draw another size or another prompt, what makes it draw the one that is asked for.
PLAIN: dict[str, dict[str, Any]] = {
    "ernie-image": {"use_pe": False},
    "prx": {"use_resolution_binning": False, "skip_text_cleaning": True},
    "lumina-next": {"clean_caption": False},
    "ideogram": {"guidance_schedule": None},
    **{
        name: {"use_resolution_binning": False, "clean_caption": False}
        for name in ("sana", "sana-pag", "pixart-sigma", "pixart-sigma-pag")
    },
}
#: Where no negative prompt is another thing than an empty one.
NONE_IS_ZEROS = {"sdxl", "sdxl-turbo", "sdxl-pag", "kandinsky22", "kandinsky3", "cogview3"}
#: Those that test_architectures.py alone tries; of deepfloyd random weights exaggerate last bits to whole levels.
ELSEWHERE = {"auraflow", "pixart-alpha", "hunyuan", "ovis", "krea2-distilled", "deepfloyd"}
#: Made with one of two autoencoders, and the farm goes by the one that halves more often.
STRICTER = {"prx"}
NEGATIVE = "a grey thing"
FAMILIES = [name for name in (*WELL_KNOWN, *ARCHITECTURES) if name not in ELSEWHERE]


class Family(Tried):
    """A family's model on the farm, and beside it the pipeline that Diffusers itself opens."""

    def __init__(self, name: str, folder: Any) -> None:
        options = example_entries.options(name)
        super().__init__(name, folder, "".join(f'{key} = "{value}"\n' for key, value in options.items()))
        self._variant = options.get("variant")
        if self._variant:
            example_entries.named_as_variant(self.folder, self._variant)
        self._own: Any = None

    @property
    def profile(self) -> Profile:
        found = profile_of(pipeline_of(self.registry["m"]))  # type: ignore[arg-type]
        assert found is not None
        return found

    @property
    def takes_negatives(self) -> bool:
        return "negative_prompt" in (taken_controls(self.registry["m"]) or ())  # type: ignore[arg-type]

    def spec(self, **fields: Any) -> Spec:
        """Return a specification of four steps: fewer are among those that the farm puts right (timesteps.py)."""
        return super().spec(**{"num_inference_steps": 4} | fields)

    def own_call(self, spec: Spec, **changes: Any) -> Any:
        """Return what the pipeline draws that Diffusers opens, called as its documentation calls it."""
        if self._own is None:
            kind: Any = diffusers.DiffusionPipeline if self.name == "ernie-image" else AutoPipelineForText2Image
            self._own = kind.from_pretrained(self.folder, variant=self._variant)
            self._own.set_progress_bar_config(disable=True)
        asked: dict[str, Any] = {
            "prompt": spec.prompt,
            "width": spec.width,
            "height": spec.height,
            "num_inference_steps": spec.num_inference_steps,
            "true_cfg_scale" if self.name.startswith("qwen-image") else "guidance_scale": spec.guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(spec.seed),
            "output_type": "np",
            **PLAIN.get(self.name, {}),
        }
        if self.name == "flux-kontext":
            asked["max_area"] = spec.width * spec.height
        if self.takes_negatives:
            asked["negative_prompt"] = spec.negative_prompt or (None if self.name in NONE_IS_ZEROS else "")
        [picture] = self._own(**asked | changes).images
        return np.rint(np.asarray(picture) * 255).astype(np.int16)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    if absent := architectures.packages_missing(request.param):
        pytest.skip(f"{', '.join(absent)} is not installed")
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def close(one: Any, other: Any) -> bool:
    """Tell whether two pictures differ by one level at most."""
    return one.shape == other.shape and int(np.abs(one - other).max()) <= 1


def test_a_picture_is_what_diffusers_own_call_draws(family: Family) -> None:
    spec = family.spec()
    assert close(family.drawn(spec), family.own_call(spec))
    if family.takes_negatives:
        spec = family.spec(negative_prompt=NEGATIVE)
        assert close(family.drawn(spec), family.own_call(spec))


def test_a_picture_is_the_same_alone_in_a_batch_and_beside_a_longer_prompt(family: Family) -> None:
    # The first is drawn once for this test and the one before; the last is more than any encoder reads in one piece.
    prompts = ("a red star", "blue", "dot " * 30)
    specs = [family.spec(prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts, start=1)]
    assert specs[0] == family.spec()
    for picture, spec in zip(family.together(specs), specs, strict=True):
        assert close(picture, family.drawn(spec)), spec.prompt
    assert not close(family.drawn(specs[0]), family.drawn(specs[1]))
    if family.profile.neighbours == "lengthen negatives":
        specs = [specs[2], family.spec(negative_prompt=f"{NEGATIVE} " * 3)]
        assert close(family.together(specs)[1], family.drawn(specs[1]))


def test_without_guidance_a_picture_is_what_diffusers_draws_without(family: Family) -> None:
    spec = family.spec(guidance_scale=family.profile.off)
    assert close(family.drawn(spec), family.own_call(spec))
    if family.takes_negatives and not family.profile.prior:
        ignored = family.spec(guidance_scale=family.profile.off, negative_prompt=NEGATIVE)
        assert close(family.drawn(ignored), family.drawn(spec))
        assert any(remark.startswith("negative_prompt: ") for remark in family.said(ignored))


def test_a_negative_prompt_that_is_not_read_is_refused(family: Family) -> None:
    if family.takes_negatives:
        assert family.profile.negative == "text"
        return
    assert family.profile.negative != "text"
    with pytest.raises(BadSpecification, match="negative_prompt: the model m"):
        family.spec(negative_prompt=NEGATIVE)


def test_sizes_are_drawn_as_asked_or_refused(family: Family) -> None:
    multiple = family.profile.multiple
    spec = family.spec(width=64 + multiple, num_inference_steps=2)
    assert family.drawn(spec).shape[:2] == (64, 64 + multiple)
    if multiple == 8:
        return
    with pytest.raises(BadSpecification, match=f"width: must be a multiple of {multiple} for the model m"):
        family.spec(width=64 + multiple // 2)
    odd = spec.model_copy(update={"width": 64 + multiple // 2})
    if family.name in STRICTER:
        return
    if family.profile.odd_sizes == "rounded":
        assert family.own_call(odd).shape[1] != odd.width
    else:
        with pytest.raises((ValueError, RuntimeError)):
            family.own_call(odd)


def test_a_call_ends_after_the_step_in_which_it_was_abandoned(family: Family) -> None:
    steps = []

    def abandon() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise Abandoned

    with pytest.raises(Abandoned):
        family.together([family.spec(seed=5)], abandon)
    assert len(steps) == 2
    assert close(family.together([family.spec()])[0], family.drawn(family.spec()))


def test_a_recipe_says_what_the_call_is_told_beside_the_picture(family: Family) -> None:
    recipe = family.model.render([family.spec(num_inference_steps=2)], lambda: None).recipe
    told = recipe.get("call", {})
    takes = inspect.signature(type(family.model._denoiser).__call__).parameters
    assert {name: told[name] for name in family.profile.pinned if name in takes} == {
        name: value for name, value in family.profile.pinned.items() if name in takes
    }
    assert set(family.profile.recorded) <= set(told)


def test_the_first_token_that_is_said_to_be_ignored_is_the_first_that_is_and_so_of_negative_prompts(
    family: Family,
) -> None:
    if family.name not in TRIED:
        return  # Another one of its family is tried.
    if family.profile.beyond == "error":
        check_failure(family)
        return
    for field in ("prompt", "negative_prompt"):
        check_cut(family.name, family, field)


def test_every_family_is_tried_for_that() -> None:
    drawn = {family_of(name) for name in LEARNED if (profile := profile_of(name)) is not None and profile.drawn}
    assert {*TRIED.values()} == drawn
    assert TRIED.keys() <= {*WELL_KNOWN, *ARCHITECTURES}
