"""What a model's profile forbids, and what it remarks on, when a picture is submitted."""

from collections.abc import Iterator

from storage.errors import BadSpecification
from storage.spec.guidance import is_told_its_guidance
from storage.spec.model_files import own_configuration
from storage.spec.models import DiffusersModel
from storage.spec.picture import MAX_PROMPT_CHARACTERS, Spec
from storage.spec.profiles import Distilled, Profile, distillation, profile_of, wrongly_distilled
from storage.spec.sampler_names import SAMPLERS

_MEANINGS = {
    "classifier-free": "away from the negative prompt",
    "true_cfg": "away from the negative prompt, as true_cfg_scale",
    "embedded": "told to the model",
    "schedule": "the same at every step",
}
_NEGATIVES = {
    "text": "read",
    "embeddings": "none (its pipeline takes embeddings only)",
    "true_cfg": "none (its pipeline reads one only beside true_cfg_scale)",
    "none": "none",
}
#: Pictures of fewer than this share of the pixels that a model was made for are remarked on.
_SMALL = 0.5
#: Negative prompts of so many bytes are read whole beside any prompt.
_ALWAYS_READ = {"own": MAX_PROMPT_CHARACTERS * 4, "in eights": 7, "one more": 1}

_NEGATIVE_HINTS = {
    "embeddings": "; its pipeline takes a negative prompt as embeddings only",
    "true_cfg": "; its pipeline reads a negative prompt only beside true_cfg_scale, which the farm leaves off",
}


def check_profile(spec: Spec, model: DiffusersModel, pipeline: str | None) -> None:
    """Raise BadSpecification for what a model's pipeline would round, or could not do."""
    profile = profile_of(pipeline)
    if profile is None:
        return
    if not profile.drawn:
        raise BadSpecification(f"model: {model.alias} is a {pipeline}, which this farm cannot draw with")
    if model.dtype in profile.refused_dtypes:
        able = ", ".join(sorted({"auto", "bfloat16", "float16", "float32"} - set(profile.refused_dtypes)))
        raise BadSpecification(
            f"model: {model.alias} is registered with dtype {model.dtype}, in which a {pipeline} cannot draw; "
            f"edit its entry (dtype: {able})"
        )
    if wrong := wrongly_distilled(model.distilled, pipeline):
        raise BadSpecification(f"model: the entry of {model.alias} is wrong: {wrong}")
    _check_size(spec, model, profile)
    if spec.guidance_scale < profile.least_guidance:
        raise BadSpecification(
            f"guidance_scale: must be {profile.least_guidance:g} or more for the model {model.alias} "
            f"(given: {spec.guidance_scale:g})"
        )


def negative_hint(pipeline: str | None) -> str:
    """Say why a pipeline takes no negative prompt, where it has another way."""
    profile = profile_of(pipeline)
    return _NEGATIVE_HINTS.get(profile.negative, "") if profile else ""


def profile_remarks(spec: Spec, model: DiffusersModel, pipeline: str | None) -> Iterator[str]:
    """Yield remarks on what a model's pipeline can do, but does badly or otherwise than one would think."""
    profile = profile_of(pipeline)
    if profile is None:
        return
    yield from _size_remarks(spec, model, profile)
    guided = spec.guidance_scale > profile.off
    if guided and len(spec.negative_prompt.encode()) > _ALWAYS_READ[profile.negative_room]:
        yield (
            f"negative_prompt: the model {model.alias} reads no more tokens of it than about its prompt has; "
            "if that is not all of it, the picture's own remark names the place"
        )
    own = own_configuration(model)
    if own is not None and (steps := own.index.get("sample_sigmas")) and len(steps) != spec.num_inference_steps:
        yield (
            f"num_inference_steps: the model {model.alias} has noise levels of its own for {len(steps)} steps; with "
            "other numbers it draws at even ones"
        )
    told = profile.guidance == "embedded" or (own is not None and is_told_its_guidance(own))
    if (
        kind := model.distilled
        or profile.distilled
        or ("lcm" if told and "unet" in (own.index if own else ()) else None)
    ):
        yield from _distilled_remarks(spec, model, kind, told=told)


def _check_size(spec: Spec, model: DiffusersModel, profile: Profile) -> None:
    multiple = profile.multiple
    for field in ("width", "height"):
        size = getattr(spec, field)
        if size % multiple:
            near = size // multiple * multiple
            raise BadSpecification(
                f"{field}: must be a multiple of {multiple} for the model {model.alias}, "
                f"such as {near or multiple} or {near + multiple} (given: {size})"
            )


def _size_remarks(spec: Spec, model: DiffusersModel, profile: Profile) -> Iterator[str]:
    stated = {"width", "height"} & model.model_fields_set
    width, height = (model.width, model.height) if stated else profile.native
    share = spec.width * spec.height / (width * height)
    if profile.least_trained is not None and share < profile.least_trained:
        yield f"width, height: the model {model.alias} draws poorly below {width} × {height} pixels"
    elif not stated and (spec.width, spec.height) == (model.width, model.height) and share < _SMALL:
        yield (
            f"width, height: models such as {model.alias} are made for {width} × {height} pixels; "
            "its entry names no size of its own"
        )


def _distilled_remarks(spec: Spec, model: DiffusersModel, kind: Distilled, *, told: bool) -> Iterator[str]:
    """Yield remarks on what a distilled model was not distilled for.

    Args:
        told: whether it takes the guidance scale as an embedding, and so any.
    """
    wanted, said = distillation(kind), f"the model {model.alias} was distilled for"
    least, most = wanted.steps
    if not least <= spec.num_inference_steps <= most:
        yield f"num_inference_steps: {said} {least} to {most} steps ({kind})"
    if spec.guidance_scale > wanted.most_guidance and not told:
        yield f"guidance_scale: {said} at most {wanted.most_guidance:g} ({kind})"
    if spec.sampler is not None and spec.sampler not in wanted.samplers:
        yield f"sampler: {said} {', '.join(SAMPLERS[name] for name in wanted.samplers)} ({kind})"


def described(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield what a family makes of a picture's fields, in words: a name of at most nine letters and what it is."""
    if not profile.drawn:
        yield "family", "this farm cannot draw with it"
        return
    above = "" if profile.guidance == "embedded" else f", above {profile.off:g}"
    yield "guidance", _MEANINGS[profile.guidance] + above
    yield "negative", _NEGATIVES[profile.negative]
    width, height = profile.native
    yield "sizes", f"multiples of {profile.multiple}; made for {width} × {height}"
    room = f"{profile.room} tokens" if profile.room else "all" if profile.beyond == "read" else "as its tokenizer says"
    most = ", and draws none of more" if profile.beyond == "error" else ""
    yield (
        "reads",
        f"{room} of a prompt{', in lower case' if profile.lower_case else ''}{most} ({', '.join(profile.encoders)})",
    )
    if profile.packages:
        yield "needs", f"{', '.join(profile.packages)} where it is drawn (`pip install {' '.join(profile.packages)}`)"
