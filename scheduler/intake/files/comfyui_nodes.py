"""What the inputs of ComfyUI's samplers are called: each of its sampling nodes says the same in its own way.

Source: nodes.py and comfy_extras/nodes_custom_sampler.py of ComfyUI.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = Callable[[str, str], Any]

#: Nodes that shape nothing of a picture, or whose part is read where it is used.
PASSED = frozenset(
    {
        *("VAEDecode", "VAEDecodeTiled", "VAELoader", "SaveImage", "PreviewImage", "Note", "MarkdownNote", "Reroute"),
        *("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "SaveImageWebsocket"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Hold where a sampler's settings are; they are read when they are called, and may then be found wrong."""

    #: Our fields → how their values are read.
    cells: Mapping[str, Callable[[], Any]]
    sampler_name: Callable[[], Any]
    schedule: Callable[[], Any]
    #: A node and its inputs for the prompt and the negative prompt.
    conditioning: tuple[str, str, str | None]
    #: A node and its input for the model; for the latent.
    model: tuple[str, str]
    latent: tuple[str, str]
    #: Further nodes that this is read of.
    nodes: frozenset[str] = frozenset()
    #: What it does that is not done here.
    not_done: Mapping[str, Any] = field(default_factory=dict)


def sampling_of(graph: Mapping[str, Any], name: str, value: Value) -> Sampling:
    """Return how a sampling node says what it does. Raises BadSpecification for one that is connected to nothing."""
    return _KINDS[graph[name]["class_type"]](graph, name, value)


def _of_one_node(graph: Mapping[str, Any], name: str, value: Value, seed: str = "seed") -> Sampling:
    inputs = graph[name]["inputs"]
    steps = inputs.get("steps")
    # Values with which the advanced one does what the simple one does.
    as_usual = {
        "denoise": (1, 1.0),
        "add_noise": ("enable",),
        "return_with_leftover_noise": ("disable",),
        "start_at_step": (0,),
    }
    not_done = {given: inputs[given] for given, usual in as_usual.items() if inputs.get(given, usual[0]) not in usual}
    end = inputs.get("end_at_step")
    if isinstance(end, int) and isinstance(steps, int) and end < steps:
        not_done["end_at_step"] = end
    return Sampling(
        cells={
            "num_inference_steps": lambda: value(name, "steps"),
            "guidance_scale": lambda: value(name, "cfg"),
            "seed": lambda: value(name, seed),
        },
        sampler_name=lambda: value(name, "sampler_name"),
        schedule=lambda: value(name, "scheduler"),
        conditioning=(name, "positive", "negative"),
        model=(name, "model"),
        latent=(name, "latent_image"),
        not_done=not_done,
    )


def _advanced(graph: Mapping[str, Any], name: str, value: Value) -> Sampling:
    return _of_one_node(graph, name, value, "noise_seed")


def _of_parts(graph: Mapping[str, Any], name: str, value: Value) -> Sampling:
    """Read a sampler whose noise, guider, sampler and σs are nodes of their own, as mostly for FLUX.1."""
    inputs = graph[name]["inputs"]
    parts = {
        given: str(link[0])
        for given in ("noise", "guider", "sampler", "sigmas")
        if isinstance(link := inputs.get(given), list) and link and str(link[0]) in graph
    }
    guider, sigmas = parts.get("guider", name), parts.get("sigmas", name)
    within = graph[guider]["inputs"]
    cells = {
        "num_inference_steps": lambda: value(sigmas, "steps"),
        "seed": lambda: value(parts.get("noise", name), "noise_seed"),
    }
    if "cfg" in within:
        cells["guidance_scale"] = lambda: value(guider, "cfg")
    denoise = graph[sigmas]["inputs"].get("denoise", 1)
    alone = "conditioning" in within
    return Sampling(
        cells=cells,
        sampler_name=lambda: value(parts.get("sampler", name), "sampler_name"),
        schedule=lambda: value(sigmas, "scheduler"),
        conditioning=(guider, "conditioning", None) if alone else (guider, "positive", "negative"),
        model=(guider, "model"),
        latent=(name, "latent_image"),
        nodes=frozenset(parts.values()),
        not_done={} if denoise == 1 else {"denoise": denoise},
    )


_KINDS: Mapping[str, Callable[[Mapping[str, Any], str, Value], Sampling]] = {
    "KSampler": _of_one_node,
    "KSamplerAdvanced": _advanced,
    "SamplerCustomAdvanced": _of_parts,
}
#: The sampling nodes that are read.
SAMPLERS = tuple(_KINDS)
