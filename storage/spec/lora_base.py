"""For which kinds of models a LoRA may have been made: told by the names and widths of its layers, and by its trainer.

How layers are named: kohya's trainer (`networks/lora.py`, `lora_flux.py`, `lora_sd3.py` of sd-scripts), Diffusers and
PEFT. Widths and blocks are those of the published models' configurations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from storage.spec.profiles import family_of

SD1, SD2, SDXL, SD3 = "Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "Stable Diffusion 3"
FLUX, FLUX2 = "FLUX.1", "FLUX.2"
Bases = frozenset[str]

_UNETS = frozenset({SD1, SD2, SDXL})
_FLUXES = frozenset({FLUX, FLUX2})
#: Whose text encoder is CLIP's large one, under the name of the first.
_WITH_CLIP = frozenset({SD1, SDXL, SD3, FLUX})
#: What the cross-attention of a UNet takes of the text encoders.
_BY_TEXT_WIDTH = {768: SD1, 1024: SD2, 2048: SDXL}
#: How many numbers the blocks of these UNets have: a model with others is none of the published ones.
_UNET_WIDTHS = (320, 640, 1280)
_SD3_WIDTHS = (1536, 2432)

_UNET = re.compile(r"(?:^|[._])(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)[._]")
_TEXT_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]")
#: Blocks that attend: SDXL has none in its first and last, and several transformers in each of the others.
_ATTENTION_OF_SDXL = re.compile(r"transformer_blocks[._][1-9]|up_blocks[._]0[._]att|output_blocks[._][012][._]1[._]")
_ATTENTION_OF_SD = re.compile(
    r"down_blocks[._]0[._]att|up_blocks[._][23][._]att|input_blocks[._][12][._]1[._]|output_blocks[._](?:[6-9]|1[01])[._]1[._]"
)
#: Parts of names → whose they are. The first that is in a name counts.
_BY_NAME: tuple[tuple[str, Bases], ...] = (
    ("lora_te3_", frozenset({SD3, FLUX})),
    # A T5, which trainers of FLUX call the second one or the third.
    ("lora_te2_encoder_block", frozenset({FLUX})),
    ("lora_te2_", frozenset({SDXL, SD3})),
    ("text_encoder_3.", frozenset({SD3})),
    ("text_encoder_2.encoder.block", frozenset({FLUX})),
    ("text_encoder_2.", frozenset({SDXL, SD3})),
    ("label_emb", frozenset({SDXL})),
    ("add_embedding", frozenset({SDXL})),
    ("joint_blocks", frozenset({SD3})),
    ("joint_transformer_blocks", frozenset({SD3})),
    ("to_qkv_mlp_proj", frozenset({FLUX2})),
    ("img_mod", frozenset({FLUX})),
    ("double_blocks", _FLUXES),
    ("single_blocks", _FLUXES),
    ("single_transformer_blocks", _FLUXES),
)
#: What trainers write of the model, by its beginning: kohya's, and the model specification of Stability AI.
_BY_WORDS = {
    "sdxl": SDXL,
    "stable-diffusion-xl": SDXL,
    "sd_v1": SD1,
    "sd_1": SD1,
    "stable-diffusion-v1": SD1,
    "sd_v2": SD2,
    "sd_2": SD2,
    "stable-diffusion-v2": SD2,
    "sd3": SD3,
    "stable-diffusion-3": SD3,
    "flux2": FLUX2,
    "flux-2": FLUX2,
    "flux.2": FLUX2,
    "flux": FLUX,
}


def bases_of(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], taking_all: tuple[str, ...]
) -> Bases | None:
    """Return the kinds of models of which a LoRA may be; None: nothing tells, or what tells it does not agree.

    Args:
        shapes: of the file's tensors, by name.
        taking_all: how names of matrices end that take a layer's whole input, (rank, width).
    """
    found: Bases | None = None
    for name, shape in shapes.items():
        width = shape[1] if len(shape) > 1 and name.endswith(taking_all) else 0
        for clue in _clues(name, width):
            found = clue if found is None else found & clue
    said = _said(metadata)
    if said is None or (found and said not in found):
        # What its layers are counts, whatever is said of it.
        return found or None
    return frozenset({said})


def bases_of_pipeline(pipeline: str, text_width: int | None) -> Bases | None:
    """Return of which kind models of a pipeline class are; None: not one of these, or it is not known.

    Args:
        text_width: what its UNet's cross-attention takes, where that is known.
    """
    if pipeline.startswith("StableDiffusionXL"):
        return frozenset({SDXL})
    if pipeline.startswith("StableDiffusion3"):
        return frozenset({SD3})
    if pipeline.startswith(("StableDiffusion", "LatentConsistency")):
        known = _BY_TEXT_WIDTH.get(text_width or 0)
        return frozenset({known}) if known in (SD1, SD2) else frozenset({SD1, SD2})
    if pipeline.startswith("Flux2"):
        return frozenset({FLUX2})
    return frozenset({FLUX}) if pipeline.startswith("Flux") else None


def is_wrong(bases: Bases | None, pipeline: str, text_width: int | None) -> bool:
    """Tell whether a LoRA of one of these bases is surely of another kind than models of a pipeline class."""
    if bases is None or not pipeline:
        return False
    own = bases_of_pipeline(pipeline, text_width)
    if own is not None:
        return not bases & own
    # Kandinsky and others have UNets, too, and Chroma the layers of FLUX.
    has_unet = pipeline.startswith(("Kandinsky", "IF", "Wuerstchen", "StableCascade"))
    return family_of(pipeline) is not None and not has_unet and bases <= _UNETS


def named(bases: Bases | None) -> str | None:
    """Return what bases are called together; None for none, or where they are all that a UNet may be of."""
    if not bases or bases == _UNETS:
        return None
    names = sorted(bases)
    if bases == _FLUXES:
        return "FLUX"
    return " or ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"


def cannot_be_told(bases: Bases | None, names: Sequence[str], pipeline: str, text_width: int | None) -> bool:
    """Tell whether a LoRA would be applied though it may be of another kind, whose layers are the same."""
    own = bases_of_pipeline(pipeline, text_width)
    if bases is None or own is None or not bases & own or bases <= own:
        return False
    # Those of denoisers differ, in what they take or give; of text encoders, whole ones are the same.
    return bases == {SD1, SD2} or not any("blocks" in name for name in names)


def _clues(name: str, width: int) -> Iterator[Bases]:
    """Yield what a tensor's name and what it takes tell."""
    if (text := _of_first_encoder(name, width)) is not None:
        yield text
        return
    for part, bases in _BY_NAME:
        if part in name:
            yield bases
            return
    if _UNET.search(name):
        yield _UNETS
        if _TEXT_ATTENTION.search(name):
            if width in _BY_TEXT_WIDTH:
                yield frozenset({_BY_TEXT_WIDTH[width]})
        elif width in _UNET_WIDTHS and _ATTENTION_OF_SDXL.search(name):
            yield frozenset({SDXL})
        elif width in _UNET_WIDTHS and _ATTENTION_OF_SD.search(name):
            yield frozenset({SD1, SD2})
    elif "transformer_blocks" in name and width in _SD3_WIDTHS and ".attn." in name.replace("_attn_", ".attn."):
        yield frozenset({SD3})


def _of_first_encoder(name: str, width: int) -> Bases | None:
    """Return whose a layer of the first text encoder is: kohya names it so that SDXL's is another one."""
    if name.startswith("lora_te_"):
        return {768: frozenset({SD1}), 1024: frozenset({SD2})}.get(width)
    if name.startswith("lora_te1_"):
        return _WITH_CLIP - {SD1} if width == 768 else None
    if name.startswith(("text_encoder.", "base_model.model.text_model.", "text_model.")):
        return {768: _WITH_CLIP, 1024: frozenset({SD2})}.get(width)
    return None


def _said(metadata: Mapping[str, str]) -> str | None:
    for field in ("modelspec.architecture", "ss_base_model_version"):
        said = str(metadata.get(field, "")).lower()
        for beginning, base in _BY_WORDS.items():
            if said.startswith(beginning):
                return base
    return None
