"""ComfyUI's graphs, as its API takes them (`Export (API)`) and as it writes them into its pictures.

A graph is an object of nodes by their numbers: `{"3": {"class_type": "KSampler", "inputs": {"model": ["4", 0]}}}`. In a
file of prompts the plain one of text to image is read, and others are refused. Of a finished picture, what leads to its
sampler is read, whatever the nodes on the way are called, and what they do beside is told.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from scheduler.intake.files.columns import Row
from scheduler.intake.files.comfyui_nodes import PASSED, SAMPLERS, sampling_of
from scheduler.intake.files.leftovers import Leftovers, kept
from storage.errors import BadSpecification
from storage.spec.aliases import alias_in, without_ending
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
_WEIGHTED = re.compile(r"(?<!\\)\([^()]*\)")
_EMBEDDING = re.compile(r"embedding:([\w.-]+)")
_ESCAPED = re.compile(r"\\([()])")
_BRACKETS = re.compile(r"(?<!\\)[\[\]]")
_WORDS = re.compile(r"\b(AND|BREAK)\b")
#: Inputs that name a model's file.
_FILES = ("ckpt_name", "unet_name", "model_name")
#: Inputs that are text, the one that most of a picture follows first.
_TEXTS = ("text", "t5xxl", "text_g", "clip_l", "text_l")
#: Inputs of nodes that hold a single value for others.
_VALUES = ("value", "text", "string", "int", "float", "seed", "Value", "Text", "String")


def is_graph(value: Any) -> bool:
    """Return whether this is a graph."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(node, Mapping) and isinstance(node.get("class_type"), str) for node in value.values())
    )


def row_of(where: str, graph: Mapping[str, Any], leftovers: Leftovers | None = None) -> Row:
    """Read a graph. Raises BadSpecification with the node that is not read, unless it is kept."""
    if leftovers is None:
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
    plain = {
        str(name): {**node, "inputs": node["inputs"] if isinstance(node.get("inputs"), Mapping) else {}}
        for name, node in graph.items()
    }
    return _PictureReader(plain, leftovers).picture(where)


class _Reader:
    """Reads plain graphs alone."""

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
            "sampler": self._sampler(sampler, self._value(sampler, "sampler_name"), self._value(sampler, "scheduler")),
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
                alias = alias_in(self._name(found, "lora_name"))
                if len(weights) > 1 or alias in loras:
                    raise BadSpecification(f"ComfyUI's node {found}: one strength for a LoRA is supported, not two")
                loras[alias] = weights.pop()
            elif node["class_type"] == "CLIPSetLastLayer":
                skipped = self._skipped(found)
        return found, loras, skipped

    def _skipped(self, name: str) -> int:
        # It counts from the end: -1 is the last layer.
        return -self._whole(name, "stop_at_clip_layer") - 1

    def _way(self, name: str, output: str) -> Iterator[str]:
        seen = {name}
        while self._graph[name]["class_type"] != "CheckpointLoaderSimple":
            name = self._behind(name, output)
            if name in seen:
                raise BadSpecification(f"ComfyUI's node {name} leads to itself")
            seen.add(name)
            yield name

    def _inputs(self, name: str) -> Mapping[str, Any]:
        inputs = self._graph[name].get("inputs")
        return inputs if isinstance(inputs, Mapping) else {}

    def _behind(self, name: str, given: str, kind: str | None = None) -> str:
        """Return the node that an input comes from."""
        link = self._inputs(name).get(given)
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
        value = self._inputs(name).get(given)
        if value is None or isinstance(value, list | dict):
            raise BadSpecification(f"ComfyUI's node {name}: {given} must stand in the node (given: {shown(value)})")
        return value

    def _whole(self, name: str, given: str) -> int:
        value = self._value(name, given)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST:
            raise BadSpecification(f"ComfyUI's node {name}: {given} must be a whole number (given: {shown(value)})")
        return value

    def _name(self, name: str, given: str) -> str:
        return without_ending(str(self._value(name, given)))

    def _text(self, name: str) -> str:
        text = str(self._value(name, "text"))
        if found := _LANGUAGE.search(text):
            raise BadSpecification(
                f"ComfyUI's node {name}: {found[0]} in its text is computed in ComfyUI's own way; leave weights and "
                r"embeddings out, or write \( and \) for letters"
            )
        return _ESCAPED.sub(r"\1", text)

    def _sampler(self, name: str, sampler: Any, schedule: Any) -> str:
        try:
            return of_comfyui(str(sampler), str(schedule))
        except BadSpecification as error:
            raise BadSpecification(f"ComfyUI's node {name}: {error}") from None


class _PictureReader(_Reader):
    """Reads what made a picture, and keeps what it cannot."""

    def __init__(self, graph: Mapping[str, Any], leftovers: Leftovers) -> None:
        super().__init__(graph)
        self._left = leftovers
        #: Nodes that were read, or are known to shape nothing.
        self._seen: set[str] = set()

    def picture(self, where: str) -> Row:
        sampler = self._first_sampler()
        said = sampling_of(self._graph, sampler, self._value)
        self._seen |= {sampler, *said.nodes}
        for told, value in said.not_done.items():
            self._left.not_done[f"node {sampler}: {told}"] = value
        cells: dict[str, Any] = {}
        for field, value in said.cells.items():
            with kept(self._left, field):
                cells[field] = value()
        with kept(self._left, "sampler"):
            cells["sampler"] = self._sampler(sampler, said.sampler_name(), said.schedule())
        self._prompts(said.conditioning, cells)
        self._model(said.model, cells)
        self._size(said.latent, cells)
        for name, node in self._graph.items():
            if name not in self._seen and node["class_type"] not in PASSED:
                self._left.not_done[f"node {name} ({node['class_type']})"] = "left out"
        return Row(where, cells)

    def _first_sampler(self) -> str:
        """Return the sampler that begins with an empty latent: another, behind it, changes its picture."""
        found = [name for name, node in self._graph.items() if node["class_type"] in SAMPLERS]
        if not found:
            raise BadSpecification(f"ComfyUI's graph has none of the samplers that are read: {', '.join(SAMPLERS)}")
        for name in found:
            link = self._inputs(name).get("latent_image")
            behind = self._graph.get(str(link[0])) if isinstance(link, list) and link else None
            if behind is not None and str(behind["class_type"]).startswith("Empty"):
                return name
        return found[0]

    def _value(self, name: str, given: str) -> Any:
        """Return a value, also of a node that holds it for others."""
        value = self._inputs(name).get(given)
        if isinstance(value, list) and value and str(value[0]) in self._graph:
            holder = str(value[0])
            inputs = self._inputs(holder)
            for key in (given, *_VALUES):
                if isinstance(inputs.get(key), str | int | float):
                    self._seen.add(holder)
                    return inputs[key]
        return super()._value(name, given)

    def _chain(self, name: str, output: str, inputs: tuple[str, ...]) -> Iterator[str]:
        """Yield the nodes behind an input, one after the other; each is followed by the first of these inputs."""
        seen: set[str] = set()
        found: str | None = self._behind(name, output)
        while found is not None and found not in seen:
            seen.add(found)
            self._seen.add(found)
            yield found
            given = next((one for one in inputs if isinstance(self._inputs(found).get(one), list)), None)
            found = None if given is None else self._behind(found, given)

    def _prompts(self, conditioning: tuple[str, str, str | None], cells: dict[str, Any]) -> None:
        sampler, positive, negative = conditioning
        texts: dict[str, str] = {}
        for field, output in (("prompt", positive), ("negative_prompt", negative)):
            if output is not None:
                with kept(self._left, field):
                    texts[field] = self._encoded(sampler, output, field, cells)
        weighted = any(_WEIGHTED.search(text) for text in texts.values())
        for field, text in texts.items():
            cells[field] = self._in_our_language(text, weighted=weighted)
        if weighted:
            cells["prompt_weighting"] = "webui"

    def _encoded(self, sampler: str, output: str, field: str, cells: dict[str, Any]) -> str:
        """Return the text that a conditioning is made of; guidance that FLUX.1-dev is told stands on the way."""
        through = "positive" if field == "prompt" else "negative"
        for node in self._chain(sampler, output, ("conditioning", "conditioning_1", through)):
            kind, inputs = self._graph[node]["class_type"], self._inputs(node)
            if field == "prompt" and isinstance(inputs.get("guidance"), int | float):
                cells["guidance_scale"] = inputs["guidance"]
            if kind == "ConditioningZeroOut":
                return ""
            texts = [given for given in _TEXTS if given in inputs]
            if texts:
                first, *others = [str(self._value(node, given)) for given in texts]
                for given, text in zip(texts[1:], others, strict=True):
                    if text != first:
                        self._left.not_done[f"node {node}: {given}"] = text
                self._of_encoder(node, cells)
                return first
            if kind != "FluxGuidance":
                self._left.not_done[f"node {node} ({kind})"] = f"changes the {field.replace('_', ' ')}"
        raise BadSpecification(f"ComfyUI's node {sampler}: no text leads to its input {output}")

    def _of_encoder(self, node: str, cells: dict[str, Any]) -> None:
        """Read what of a text encoder's way to its file counts here."""
        if not isinstance(self._inputs(node).get("clip"), list):
            return
        for found in self._chain(node, "clip", ("clip",)):
            if self._graph[found]["class_type"] == "CLIPSetLastLayer":
                with kept(self._left, "clip_skip"):
                    cells |= {"clip_skip": skipped} if (skipped := self._skipped(found)) else {}

    def _in_our_language(self, text: str, *, weighted: bool) -> str:
        """Return a text with ComfyUI's weights as the web UI's: in ComfyUI, square brackets are letters."""
        for found in _EMBEDDING.finditer(text):
            self._left.unread[found[0]] = "an embedding where one is registered under this name, otherwise words"
        bare = _EMBEDDING.sub(r"\1", text)
        if not weighted:
            return _ESCAPED.sub(r"\1", bare)
        # CLIP reads words in lower case anyway; in the web UI these two mean more.
        return _WORDS.sub(lambda word: word[0].lower(), _BRACKETS.sub(r"\\\g<0>", bare))

    def _model(self, way: tuple[str, str], cells: dict[str, Any]) -> None:
        loras: dict[str, Any] = {}
        with kept(self._left, "model"):
            for node in self._chain(*way, ("model",)):
                kind, inputs = self._graph[node]["class_type"], self._inputs(node)
                if "lora_name" in inputs:
                    self._lora(node, loras)
                elif file := next((given for given in _FILES if given in inputs), None):
                    cells["model"] = self._name(node, file)
                else:
                    self._left.not_done[f"node {node} ({kind})"] = "changes the model"
        if loras:
            cells["loras"] = loras

    def _lora(self, node: str, loras: dict[str, Any]) -> None:
        alias, strength = alias_in(self._name(node, "lora_name")), self._value(node, "strength_model")
        if self._inputs(node).get("strength_clip", strength) != strength:
            self._left.not_done[f"node {node}: strength_clip"] = self._inputs(node)["strength_clip"]
        if strength:
            loras[alias] = strength

    def _size(self, way: tuple[str, str], cells: dict[str, Any]) -> None:
        with kept(self._left, "size"):
            latent = self._behind(*way)
            self._seen.add(latent)
            if not {"width", "height"} <= self._inputs(latent).keys():
                raise BadSpecification(f"ComfyUI's node {latent} ({self._graph[latent]['class_type']}) has none")
            cells |= {side: self._value(latent, side) for side in ("width", "height")}
            if self._inputs(latent).get("batch_size", 1) != 1:
                self._left.not_done[f"node {latent}: batch_size"] = (
                    f"{self._inputs(latent)['batch_size']}; which of them this picture is, its file does not say"
                )
