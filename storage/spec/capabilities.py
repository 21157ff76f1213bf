"""Which controls a model's pipeline supports, known without torch from `pipelines.json`.

`worker.rendering.learn_capabilities` writes that file.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from storage.errors import BadSpecification
from storage.spec.controls import PER_CONTROLNET
from storage.spec.guidance import guidance_remarks, is_guided
from storage.spec.lora_header import base_is_open, wrong_in_header, wrong_scale
from storage.spec.model_files import own_configuration, own_pipeline, public_source
from storage.spec.models import DiffusersModel, Embedding, Lora, Model, SimulatedModel
from storage.spec.picture import DISTINCT_SEEDS, Spec
from storage.spec.picture_size import STEP
from storage.spec.profile_rules import check_profile, negative_hint, profile_remarks
from storage.spec.profiles import profile_of
from storage.spec.samplers import check_clip_skip, check_sampler, has_prior
from storage.spec.wrong_files import wrong_in_files

REMARK_ON_LARGE_SEEDS = (
    f"seed: only its lowest 32 bits count; seeds a multiple of {DISTINCT_SEEDS} apart draw the same picture"
)


REMARK_ON_SINGLE_STEPS = (
    "sampler: DPM++ SDE alone makes one call a step; DPM++ SDE Karras, or any other schedule, makes two, as elsewhere"
)


def pipeline_of(model: DiffusersModel) -> str | None:
    """Return the class that the model's `model_index.json` names; None if neither registry nor machine knows it."""
    if model.pipeline is not None:
        return model.pipeline
    return own_pipeline(model)


def taken_controls(model: DiffusersModel) -> frozenset[str] | None:
    """Return the controls that a model supports, `negative_prompt` and `sampler` among them; None if unknown."""
    known = _table().get(pipeline_of(model) or "")
    if known is None:
        return None
    return frozenset(known.get("with_controlnet", ()) if model.controlnets else known["controls"])


def check_controls(spec: Spec, model: Model) -> None:
    """Check that a model can render this picture, as far as that is known here.

    Raises BadSpecification with the field, what is wrong and what the model supports.
    """
    if isinstance(model, SimulatedModel):
        if controls := spec.controls():
            raise BadSpecification(f"{min(controls)}: the model {model.alias} is simulated and does not support it")
        return
    if wrong := wrong_in_files(model):
        raise BadSpecification(f"model: {model.alias}: {wrong}")
    check_profile(spec, model, pipeline_of(model))
    # What becomes of long prompts is decided before any pipeline (`storage.spec.prompt_length`).
    asked = set(spec.controls()) - {"long_prompts"}
    if asked or model.controlnets:
        _check_controlnets(spec, model)
    asked |= {name for name in ("negative_prompt", "sampler") if getattr(spec, name)}
    taken = taken_controls(model)
    if taken is not None and asked - taken:
        raise BadSpecification(
            f"{min(asked - taken)}: the model {model.alias} ({pipeline_of(model)}) does not support it; "
            f"supported: {', '.join(sorted(taken))}"
            + (negative_hint(pipeline_of(model)) if min(asked - taken) == "negative_prompt" else "")
        )
    if spec.long_prompts == "chunk" and taken is not None and "prompt_weighting" not in taken:
        raise BadSpecification(
            f"long_prompts: the model {model.alias} ({pipeline_of(model)}) cannot read prompts in chunks; cut or refuse"
        )
    check_sampler(spec, model)
    check_clip_skip(spec, model)


def remarks(spec: Spec, model: Model, embeddings: Mapping[str, Embedding] | None = None) -> Iterator[str]:
    """Yield remarks on what is allowed but hardly meant; the same words for all pictures of a model.

    Args:
        embeddings: the registry's.
    """
    # Loaded where a prompt is checked: commands that read the registry start sooner.
    from storage.spec import other_languages, webui_oddities

    if spec.prompt_weighting == "webui":
        yield from webui_oddities.weight_remarks(spec.prompt, spec.guidance_scale)
    for name in ("prompt", "negative_prompt"):
        yield from other_languages.remarks(name, getattr(spec, name), spec.prompt_weighting)
    if isinstance(model, SimulatedModel):
        return
    if aliases := words_taken(model, embeddings or {}):
        from storage.spec.embedding_words import clash_remarks

        for name in ("prompt", "negative_prompt"):
            yield from clash_remarks(name, getattr(spec, name), aliases)
    if spec.seed >= DISTINCT_SEEDS:
        yield REMARK_ON_LARGE_SEEDS
    yield from remarks_beside_words(spec, model, embeddings)


def words_taken(model: Model, embeddings: Mapping[str, Embedding]) -> tuple[str, ...]:
    """Return the embeddings that are words of a model's prompts, as far as is known here."""
    if not embeddings or isinstance(model, SimulatedModel):
        return ()
    taken = taken_controls(model)
    if taken is not None and "prompt_weighting" not in taken:
        # Its encoders are not CLIP's.
        return ()
    return tuple(alias for alias, one in embeddings.items() if not one.models or model.alias in one.models)


def remarks_beside_words(spec: Spec, model: Model, embeddings: Mapping[str, Embedding] | None = None) -> Iterator[str]:
    """Yield those of the remarks that neither the seed nor, where it is not weighted, the prompt matters to."""
    from storage.spec.prompt_length import pooled_remarks

    if isinstance(model, SimulatedModel):
        return
    pipeline, own = pipeline_of(model), own_configuration(model)
    yield from guidance_remarks(spec, model)
    yield from pooled_remarks(spec, model, embeddings or {})
    if spec.sampler == "dpm++ sde" != model.sampler:
        yield REMARK_ON_SINGLE_STEPS
    guided = is_guided(spec, pipeline, own)
    if has_prior(model, own):
        # Its prior is guided by default.
        guided |= spec.prior_guidance_scale is None or spec.prior_guidance_scale > 1
    if not guided and spec.negative_prompt not in ("", model.negative_prompt):
        yield f"negative_prompt: the model {model.alias} ignores it at a guidance_scale of {spec.guidance_scale:g}"
    yield from profile_remarks(spec, model, pipeline)
    for name, scale in (spec.loras or {}).items():
        if scale == 0:
            yield f"loras: {name} changes nothing at a scale of 0"


def check_loras(spec: Spec, loras: Mapping[str, Lora], model: Model) -> None:
    """Raise BadSpecification for a LoRA that is not registered, not made for the model, or cannot be applied to it.

    What is in its file counts where that is on this machine.
    """
    for name, scale in (spec.loras or {}).items():
        if name not in loras:
            known = f"registered LoRAs: {', '.join(loras)}" if loras else "none are registered"
            raise BadSpecification(f"loras: no LoRA named {name!r}; {known}")
        if loras[name].models and spec.model not in loras[name].models:
            raise BadSpecification(f"loras: {name} is made for {', '.join(loras[name].models)}, not for {spec.model}")
        if wrong := wrong_in_header(loras[name], *_kind_of(model)) or wrong_scale(loras[name], scale):
            raise BadSpecification(f"loras: {name} ({public_source(loras[name])}) cannot be loaded: {wrong}")


def lora_remarks(spec: Spec, loras: Mapping[str, Lora], model: Model) -> Iterator[str]:
    """Yield remarks on LoRAs that would be applied though they may be made for another kind of model."""
    for name in spec.loras or {}:
        if name in loras and (kinds := base_is_open(loras[name], *_kind_of(model))):
            yield f"loras: {name} may be made for {kinds}: its file does not tell, and its layers are the same in these"


def _kind_of(model: Model) -> tuple[str | None, int | None]:
    """Return a model's pipeline class, and how many numbers its cross-attention takes, as far as they are known."""
    if not isinstance(model, DiffusersModel):
        return None, None
    own = own_configuration(model)
    width = None if own is None else own.denoiser.get("cross_attention_dim")
    return pipeline_of(model), width if isinstance(width, int) else None


def size_multiple(model: Model) -> int:
    """Return what sides of a model's pictures are multiples of, in pixels."""
    profile = profile_of(pipeline_of(model)) if isinstance(model, DiffusersModel) else None
    return profile.multiple if profile else STEP


def _check_controlnets(spec: Spec, model: DiffusersModel) -> None:
    nets, images = len(model.controlnets), len(spec.control_images or ())
    if images != nets:
        missing = f"the model {model.alias} has {nets} ControlNet{'s' if nets != 1 else ''}"
        raise BadSpecification(f"control_images: {missing}, each needs an image ({images or 'none'} given)")
    for field in (*PER_CONTROLNET, "guess_mode"):
        value = getattr(spec, field)
        if value is not None and not nets:
            raise BadSpecification(f"{field}: the model {model.alias} has no ControlNet")
        if isinstance(value, tuple) and len(value) != nets:
            raise BadSpecification(f"{field}: {len(value)} numbers for {nets} ControlNets; give one, or one for each")
    starts, ends = spec.control_guidance_start or (0.0,) * nets, spec.control_guidance_end or (1.0,) * nets
    if wrong := [(start, end) for start, end in zip(starts, ends, strict=True) if start >= end]:
        raise BadSpecification(
            f"control_guidance_start: must be below control_guidance_end (given: {wrong[0][0]:g}, {wrong[0][1]:g})"
        )


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        files("storage.spec").joinpath("pipelines.json").read_text(encoding="utf-8")
    )
    return found
