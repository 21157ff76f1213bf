"""ComfyUI's graphs, as its API takes them (`Export (API)`): the plain one of text to image is read, others are refused.

A graph is an object of nodes by their numbers: `{"3": {"class_type": "KSampler", "inputs": {"model": ["4", 0]}}}`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

from scheduler.intake.files.columns import Row
from storage.errors import BadSpecification
from storage.spec.explanations import shown
from storage.spec.foreign_samplers import of_comfyui

_READ = frozenset(
    {
        *("KSampler", "CheckpointLoaderSimple", "EmptyLatentImage", "CLIPTextEncode", "CLIPSetLastLayer", "LoraLoader"),
        *("VAEDecode", "SaveImage", "PreviewImage"),
    }
)
_MOST = 10_000
#: Weights and embeddings, which ComfyUI computes in its own way.
_LANGUAGE = re.compile(r"(?<!\\)[()]|embedding:")
_ESCAPED = re.compile(r"\\([()])")


def is_graph(value: Any) -> bool:
    """Return whether this is a graph."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(node, Mapping) and "class_type" in node for node in value.values())
    )


def row_of(where: str, graph: Mapping[str, Any]) -> Row:
    """Read a graph. Raises BadSpecification with the node that is not read."""
    for name, node in graph.items():
        if node["class_type"] not in _READ:
            raise BadSpecification(
                f"ComfyUI's node {name} ({node['class_type']}) is not read, only plain graphs are: "
                f"{', '.join(sorted(_READ))}"
            )
    samplers = [name for name, node in graph.items() if node["class_type"] == "KSampler"]
    if len(samplers) != 1:
        raise BadSpecification(f"ComfyUI's graph has {len(samplers)} nodes of KSampler; one is read")
    return _Reader(graph).row(where, samplers[0])


class _Reader:
    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._graph = graph

    def row(self, where: str, sampler: str) -> Row:
        if self._value(sampler, "denoise") != 1:
            raise BadSpecification(f"ComfyUI's node {sampler}: denoise below 1 is not supported; pictures are new")
        latent = self._behind(sampler, "latent_image", "EmptyLatentImage")
        model, loras, _ = self._loaded(sampler, "model")
        prompt, negative = (self._behind(sampler, name, "CLIPTextEncode") for name in ("positive", "negative"))
        _, of_encoder, skipped = self._loaded(prompt, "clip")
        if self._loaded(negative, "clip")[1:] != (of_encoder, skipped) or of_encoder != loras:
            raise BadSpecification("ComfyUI's graph uses a LoRA, or a layer, for some of its parts only")
        cells = {
            "prompt": self._text(prompt),
            "negative_prompt": self._text(negative),
            "model": self._name(model, "ckpt_name"),
            "width": self._value(latent, "width"),
            "height": self._value(latent, "height"),
            "num_inference_steps": self._value(sampler, "steps"),
            "guidance_scale": self._value(sampler, "cfg"),
            "seed": self._value(sampler, "seed"),
            "sampler": self._sampler(sampler),
            **({"loras": loras} if loras else {}),
            **({"clip_skip": skipped} if skipped else {}),
        }
        copies = self._whole(latent, "batch_size")
        return Row(where, cells, copies=copies if copies > 1 else None)

    def _loaded(self, name: str, output: str) -> tuple[str, dict[str, float], int]:
        """Follow an input to its checkpoint; return that node, LoRAs on the way, and how many layers are skipped."""
        loras: dict[str, float] = {}
        skipped = 0
        found = name
        for found in self._way(name, output):
            node = self._graph[found]
            if node["class_type"] == "LoraLoader":
                weights = {self._value(found, weight) for weight in ("strength_model", "strength_clip")}
                alias = self._name(found, "lora_name").lower()
                if len(weights) > 1 or alias in loras:
                    raise BadSpecification(f"ComfyUI's node {found}: one strength for a LoRA is supported, not two")
                loras[alias] = weights.pop()
            elif node["class_type"] == "CLIPSetLastLayer":
                # It counts from the end: -1 is the last layer.
                skipped = -self._whole(found, "stop_at_clip_layer") - 1
        return found, loras, skipped

    def _way(self, name: str, output: str) -> Iterator[str]:
        seen = {name}
        while self._graph[name]["class_type"] != "CheckpointLoaderSimple":
            name = self._behind(name, output)
            if name in seen:
                raise BadSpecification(f"ComfyUI's node {name} leads to itself")
            seen.add(name)
            yield name

    def _behind(self, name: str, given: str, kind: str | None = None) -> str:
        """Return the node that an input comes from."""
        link = self._graph[name].get("inputs", {}).get(given)
        if not isinstance(link, list) or not link or str(link[0]) not in self._graph:
            raise BadSpecification(f"ComfyUI's node {name}: its input {given} comes from no node")
        found = str(link[0])
        if kind is not None and self._graph[found]["class_type"] != kind:
            raise BadSpecification(
                f"ComfyUI's node {name}: its input {given} comes from {self._graph[found]['class_type']}; "
                f"{kind} is read"
            )
        return found

    def _value(self, name: str, given: str) -> Any:
        value = self._graph[name].get("inputs", {}).get(given)
        if value is None or isinstance(value, list | dict):
            raise BadSpecification(f"ComfyUI's node {name}: {given} must stand in the node (given: {shown(value)})")
        return value

    def _whole(self, name: str, given: str) -> int:
        value = self._value(name, given)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
            raise BadSpecification(f"ComfyUI's node {name}: {given} must be a whole number (given: {shown(value)})")
        return value

    def _name(self, name: str, given: str) -> str:
        """Return a file's name without its folder and suffix, as models and LoRAs are called here."""
        file = PureWindowsPath(str(self._value(name, given)))
        return file.stem if file.suffix in (".safetensors", ".ckpt", ".pt") else file.name

    def _text(self, name: str) -> str:
        text = str(self._value(name, "text"))
        if found := _LANGUAGE.search(text):
            raise BadSpecification(
                f"ComfyUI's node {name}: {found[0]} in its text is computed in ComfyUI's own way; leave weights and "
                r"embeddings out, or write \( and \) for letters"
            )
        return _ESCAPED.sub(r"\1", text)

    def _sampler(self, name: str) -> str:
        sampler, schedule = (str(self._value(name, given)) for given in ("sampler_name", "scheduler"))
        try:
            return of_comfyui(sampler, schedule)
        except BadSpecification as error:
            raise BadSpecification(f"ComfyUI's node {name}: {error}") from None
