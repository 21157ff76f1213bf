"""What the farm writes for galleries, read again: every field that the text can carry comes back as it was."""

import re
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scheduler.intake.files.infotexts import row_of, split_infotext
from scheduler.intake.files.leftovers import Leftovers, request_of_most
from storage.spec.infotext import infotext
from storage.spec.picture import MAX_SEED, Spec
from storage.spec.sampler_names import SAMPLERS
from tests.examples import examples

MADE_WITH: dict[str, Any] = {
    "farm": "0.1.0",
    "sha256": "ab" * 32,
    "vae_source": "vae, the better: one.safetensors",
    "loras": {"ink": {"past_header": "cd" * 32}, "oil.v2": {"past_header": "12" * 32}},
    "embeddings": {"neg": {"sha256": "ef" * 32}},
    "controlnets": ["canny, 1: [0a1b2c3d]"],
}
#: What cannot be told from the text's own parts: spaces around, LoRA tags, a line that begins as the negative prompt.
_NOT_CARRIED = re.compile(r"\A\s|\s\Z|<\w+:|^\s*Negative prompt:", re.MULTILINE)
_PROMPTS = (
    st.text(st.characters(exclude_characters="\0\r", codec="utf-8"), min_size=1, max_size=60)
    | st.sampled_from(
        [
            *("Steps: 5", "a\n\nb", "a\n\n\nSteps: 20, Sampler: Euler, Seed: 5\nb", "Size: 8x8, Model: x"),
            *('"', '", "Seed: 5', "\\", "(a:1.2), [b], {c}, \\(d\\)", "Version: diffusion-farm", "Negative prompts: a"),
        ]
    )
).filter(lambda text: _NOT_CARRIED.search(text) is None)
_SHARES = st.floats(0, 1, allow_subnormal=False)
_PAIR = st.tuples(st.integers(1, 65536), st.integers(1, 65536))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    controls: dict[str, Any] = {
        "clip_skip": st.integers(1, 23),
        "loras": st.dictionaries(st.sampled_from(["ink", "oil.v2", "a-b_c"]), st.floats(-10, 10), min_size=1),
        "long_prompts": st.sampled_from(["chunk", "cut", "refuse"]),
        "guess_mode": st.booleans(),
        "prior_num_inference_steps": st.integers(1, 1000),
        "prior_guidance_scale": st.floats(0, 1000),
        "original_size": _PAIR,
        "crops_coords_top_left": _PAIR,
        "target_size": _PAIR,
    }
    chosen = {name: draw(controls[name]) for name in draw(st.sets(st.sampled_from(sorted(controls))))}
    sampler = draw(st.sampled_from(sorted(SAMPLERS)))
    if sampler == "ddim" and draw(st.booleans()):
        chosen["eta"] = draw(st.floats(0.001, 1))
    return Spec(
        model=draw(st.sampled_from(["tiny", "dreamshaper_8", "a.b-c"])),
        prompt=draw(_PROMPTS),
        negative_prompt=draw(_PROMPTS | st.just("")),
        width=8 * draw(st.integers(1, 1024)),
        height=8 * draw(st.integers(1, 1024)),
        num_inference_steps=draw(st.integers(1, 1000)),
        guidance_scale=draw(st.floats(0, 1000)),
        sampler=sampler,
        seed=draw(st.integers(0, MAX_SEED)),
        **chosen,
    )


def read_back(spec: Spec, made_with: dict[str, Any] = MADE_WITH) -> tuple[dict[str, Any], Leftovers]:
    left = Leftovers()
    row, ours = row_of(infotext(spec, made_with), left)
    assert ours
    request = request_of_most(row, left)
    return request.model_dump(mode="json", exclude_none=True), left


def said(spec: Spec) -> dict[str, Any]:
    named = {name: value for name, value in spec.fields().items() if name != "version" and value is not None}
    return named if spec.prompt else {name: value for name, value in named.items() if name != "prompt"}


USUAL = Spec(
    model="tiny",
    prompt="a star",
    negative_prompt="",
    width=64,
    height=48,
    num_inference_steps=20,
    guidance_scale=0.1 + 0.2,
    sampler="euler a",
    seed=2**32 + 7,
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@example(spec=USUAL)
@example(spec=USUAL.model_copy(update={"negative_prompt": "b\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"}))
@example(spec=USUAL.model_copy(update={"prompt": "=SUM(cats)", "negative_prompt": "NaN"}))
@given(spec=specs())
def test_whatever_the_doors_accept_comes_back_from_what_galleries_read(spec: Spec) -> None:
    found, left = read_back(spec)
    assert found == said(spec)
    assert (left.unfit, left.not_done) == ({}, {})


def test_so_does_the_language_that_a_prompt_is_in() -> None:
    for language, prompt in (("webui", "a (red:1.2) [cat|dog]"), ("compel", "a (red)1.2 cat++")):
        spec = USUAL.model_copy(update={"prompt": prompt, "prompt_weighting": language})
        assert read_back(spec)[0] == said(spec)
    letters = USUAL.model_copy(update={"prompt": "a (red:1.2) [cat]"})
    assert read_back(letters)[0] == said(letters)


def test_a_models_own_sampler_that_has_no_name_here_stays_its_own() -> None:
    spec = USUAL.model_copy(update={"sampler": None, "eta": 0.5})
    found, left = read_back(spec, {"farm": "0.1.0", "scheduler": "DEISMultistepScheduler"})
    assert found == said(USUAL.model_copy(update={"sampler": None}))
    assert (left.unfit, left.not_done) == ({}, {"Eta": "0.5"})


def test_what_the_text_does_not_carry_is_told_by_name() -> None:
    image = f"sha256:{'0' * 64}"
    spec = USUAL.model_copy(update={"control_images": (image,), "controlnet_conditioning_scale": (0.5,)})
    found, left = read_back(spec)
    assert found == said(USUAL)
    unit = "Model: canny 1 [0a1b2c3d], Module: none, Weight: 0.5, Guidance Start: 0, Guidance End: 1, "
    assert left.not_done == {"ControlNet 0": f"{unit}Control Mode: Balanced"}
    embeds = USUAL.model_copy(update={"prompt": "", "prompt_embeds": image})
    assert read_back(embeds)[0] == said(embeds)


def test_hashes_are_as_the_web_ui_writes_them() -> None:
    settings_of = split_infotext(infotext(USUAL, MADE_WITH)).settings
    assert {name: settings_of[name] for name in ("Model hash", "VAE", "Lora hashes", "TI hashes")} == {
        "Model hash": "ababababab",
        "VAE": "vae, the better: one.safetensors",
        "Lora hashes": "ink: cdcdcdcdcdcd, oil.v2: 121212121212",
        "TI hashes": "neg: efefefefefef",
    }
    assert not {"VAE hash", "ControlNet 0", "Clip skip"} & settings_of.keys()
