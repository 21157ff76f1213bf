"""Why the farm cannot draw with a model, told from its files' headers and names before anything is loaded."""

from storage.spec.model_files import is_there, local_folder, named_folder, own_configuration, public_source
from storage.spec.models import DiffusersModel, Weights
from storage.spec.profiles import family_of
from storage.spec.single_file import FAMILIES, FAMILY_NAMES, Kind, SingleFile, has_vae, look_into
from storage.spec.wrong_folders import wrong_in_folder

#: Where in a registry a file of this kind belongs.
_PLACES = {
    "checkpoint": "make it a model, [models.ALIAS]",
    "LoRA": "make it an entry [loras.ALIAS]",
    "ControlNet": "name it in `controlnets` of a model",
    "VAE": "name it as `vae` of a model",
    "embedding": "make it an entry [embeddings.ALIAS]",
    "denoiser": "it lacks text encoders and VAE: put the whole model into a folder in Diffusers layout",
    "text encoder": "alone it draws nothing: put the whole model into a folder in Diffusers layout",
    "unknown": "nothing of the farm reads it",
}
_OTHER_CONTROLS = {
    "lora_controlnet": "it is a Control-LoRA, which Diffusers does not read",
    "task_embedding": "it is a ControlNet for several tasks (union), which the farm does not read",
    "control_add_embedding.": "it is a ControlNet for several tasks (union), which the farm does not read",
}


def wrong_in_files(model: DiffusersModel) -> str | None:
    """Return why a model cannot be loaded, as far as its files are on this machine and headers and names say so."""
    for weights in model.parts:
        path = None if weights.is_single_file else named_folder(weights)
        if path is not None and is_there(path) and path.is_file():
            return f"{public_source(weights)} cannot be loaded: it is a file, and none of safetensors"
    if wrong := _wrong_checkpoint(model) if model.is_single_file else wrong_in_folder(model):
        return f"{public_source(model)} cannot be loaded: {wrong}"
    wanted: list[tuple[Weights, Kind]] = [(net, "ControlNet") for net in model.controlnets]
    if model.vae is not None:
        wanted.append((model.vae, "VAE"))
    for weights, kind in wanted:
        if weights.is_single_file and (wrong := _wrong_part(weights, kind, model)):
            return f"{public_source(weights)} cannot be loaded: {wrong}"
    return None


def told_apart(weights: Weights, kind: Kind) -> SingleFile | str | None:
    """Return what a single file is, or why it is not one of this kind; None: it is not on this machine."""
    try:
        found = look_into(local_folder(weights))
    except OSError:
        return None
    except ValueError as error:
        return f"not a safetensors file that can be read: {error}"
    if found.kind != kind:
        return f"it is {found.words}, not a {kind}; {_PLACES[found.kind]}"
    return found


def _wrong_checkpoint(model: DiffusersModel) -> str | None:
    found = told_apart(model, "checkpoint")
    if not isinstance(found, SingleFile):
        return found
    if found.unfit:
        return found.unfit
    if found.family is None and model.config is None:
        known = ", ".join(FAMILY_NAMES.values())
        return (
            f"it is of none of the families whose configurations come with the farm ({known}); "
            "name a folder in Diffusers layout of the same kind, `config = …`"
        )
    if model.zero_snr and (model.prediction_type or found.prediction) != "v_prediction":
        return 'zero_snr is for models that predict v: set prediction_type = "v_prediction", too, if this one does'
    return None if has_vae(found) or model.vae is not None else "it has no VAE; name one, `vae = …`"


def unread_control(found: SingleFile) -> str | None:
    """Return why a ControlNet cannot be read; None for others."""
    names = found.header.tensors
    return next(
        (words for start, words in _OTHER_CONTROLS.items() if any(name.startswith(start) for name in names)), None
    )


def _wrong_part(weights: Weights, kind: Kind, model: DiffusersModel) -> str | None:
    found = told_apart(weights, kind)
    if not isinstance(found, SingleFile):
        return found
    if words := unread_control(found):
        return words
    own = _family(model)
    if own and found.family and own != found.family:
        return f"it was made for {FAMILY_NAMES[found.family]}, and this model is {FAMILY_NAMES[own]}"
    return None


def _family(model: DiffusersModel) -> str | None:
    """Return of which family a model is, by its own file or its configuration; None: another, or it is not known."""
    if model.is_single_file and model.config is None:
        found = told_apart(model, "checkpoint")
        return found.family if isinstance(found, SingleFile) else None
    own = own_configuration(model)
    if own is None or family_of(own.pipeline) not in ("StableDiffusion", "StableDiffusionXL"):
        return None
    width = own.denoiser.get("cross_attention_dim")
    return FAMILIES.get(width) if isinstance(width, int) else None
