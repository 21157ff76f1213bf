"""Put pydantic's errors into one line of plain words: the field, what is wrong with it, what was given."""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, ValidationError

#: How pydantic begins its sentences.
_SUBJECT = re.compile(r"^(?:Input|String|List|Dictionary|Tuple|Set|Value|Bytes|URL) should ")
#: What pydantic says in the words of Python → the same in the words of JSON and TOML.
_IN_PLAIN_WORDS = {
    "model_type": "must be an object with fields",
    "model_attributes_type": "must be an object with fields",
    "dict_type": "must be an object with fields",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "none_required": "must be left out",
}
#: Elsewhere -1 is a random seed.
_NO_SEED = "; leave it out for a random one"
#: What other programs and libraries call a field → what it is called here, where it is one.
_CALLED_HERE = {
    **dict.fromkeys(("steps", "num_steps", "sample_steps", "inference_steps"), "num_inference_steps"),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance"), "guidance_scale"),
    **dict.fromkeys(("negative", "neg_prompt"), "negative_prompt"),
    **dict.fromkeys(("scheduler", "sampler_name", "sampling_method"), "sampler"),
    **dict.fromkeys(("path", "model", "model_id", "repo", "repo_id", "checkpoint", "ckpt", "file"), "source"),
    **dict.fromkeys(("branch", "tag", "commit", "rev"), "revision"),
    **dict.fromkeys(("precision", "torch_dtype"), "dtype"),
    **dict.fromkeys(("batch", "batch_size", "max_batch_size"), "batch_limit"),
    **dict.fromkeys(("class", "pipeline_class", "architecture"), "pipeline"),
    **dict.fromkeys(("controlnet", "control_net"), "controlnets"),
    "cpu_offload": "offload",
}
#: More names than these are not spelled out.
_MANY = 20


def explain(error: ValidationError, model: Any = None) -> str:
    """Put the first problem of a pydantic error into one line; `model`: whose names an unknown field is compared to."""
    return explain_problem(error.errors(include_url=False)[0], model)


def explain_problem(problem: Mapping[str, Any], model: Any = None) -> str:
    """Put one of pydantic's `errors()` into one line."""
    kind, place = str(problem["type"]), problem["loc"]
    if kind == "value_error" and not _without_tags(model, place):
        return _message(problem)
    if kind == "json_invalid":
        return f"not valid JSON: {problem['ctx']['error']}"
    field = ".".join(str(part) for part in _without_tags(model, place)) or "specification"
    if kind == "extra_forbidden":
        found = _models_at(model, place[:-1])
        if same := _field_called(found, place[-1]):
            return f"{field}: the same field as {same}; give one of them"
        return f"{field}: unknown field; {_meant(str(place[-1]), _names_of(found), _short_names_of(found))}"
    if kind == "missing":
        return f"{field}: missing"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _untagged(problem, field)
    hint = _NO_SEED if place[-1:] == ("seed",) and str(problem["input"]) == "-1" else ""
    return f"{field}: {_message(problem)}{hint} (given: {shown(problem['input'])})"


def _models_at(model: Any, place: Sequence[Any]) -> list[type[BaseModel]]:
    """Return the models that the object at this place of a model may be of; none if none is there."""
    found = list(_models_in(model))
    for part in place:
        fields = [one.model_fields[part] for one in found if part in one.model_fields]
        # A place may name the kind of a tagged union, which is no field.
        if fields:
            found = [inner for field in fields for inner in _models_in(field.annotation)]
        elif narrowed := [one for one in found if _tagged(one, part)]:
            found = narrowed
    return found


def _field_called(models: Sequence[type[BaseModel]], name: Any) -> str | None:
    """Return the field that has this as another of its names."""
    for model in models:
        for field, told in model.model_fields.items():
            if isinstance(told.validation_alias, AliasChoices) and name in told.validation_alias.choices:
                return field
    return None


def _names_of(models: Sequence[type[BaseModel]]) -> Collection[str]:
    # Those of the class itself before those that it inherits.
    named = [kind for one in models for kind in one.__mro__ if issubclass(kind, BaseModel)]
    return dict.fromkeys(name for kind in named for name in kind.__annotations__ if name in kind.model_fields)


def _short_names_of(models: Sequence[type[BaseModel]]) -> Collection[str]:
    """Return further names of fields, such as `steps`."""
    told = [field.validation_alias for model in models for field in model.model_fields.values()]
    return [str(name) for alias in told if isinstance(alias, AliasChoices) for name in alias.choices]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _tagged(model: type[BaseModel], tag: Any) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _without_tags(model: Any, place: Sequence[Any]) -> Sequence[Any]:
    """Return a place without the tag with which that of a tagged union begins."""
    if (
        place
        and place[0] not in _names_of(_models_at(model, ()))
        and any(_tagged(one, place[0]) for one in _models_in(model))
    ):
        return place[1:]
    return place


def _meant(name: str, known: Collection[str], others: Collection[str]) -> str:
    if (here := _CALLED_HERE.get(name.lower())) in known:
        return f"{name} here is {here}"
    near = difflib.get_close_matches(name, known, n=3) or difflib.get_close_matches(name, others, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if len(known) <= _MANY:
        return f"known fields: {', '.join(known) or 'none'}"
    return f"known fields: {', '.join(list(known)[:_MANY])} and {len(known) - _MANY} more"


def _untagged(problem: Mapping[str, Any], field: str) -> str:
    """Say what is wrong with the field that tells which of several forms an object has."""
    context = problem["ctx"]
    tag = str(context["discriminator"]).strip("'")
    inner = tag if field == "specification" else f"{field}.{tag}"
    if problem["type"] == "union_tag_not_found":
        return f"{inner}: missing"
    return f"{inner}: must be one of {context['expected_tags']} (given: {shown(context['tag'])})"


def _message(problem: Mapping[str, Any]) -> str:
    message = _IN_PLAIN_WORDS.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        message = message.replace("True", "true").replace("False", "false")
    return _SUBJECT.sub("must ", message).replace(" after validation", "")


def shown(value: object) -> str:
    """Return a value as whoever sent it wrote it: objects, lists, truth values and null as JSON; cut, if it is long."""
    try:
        is_json = value is None or isinstance(value, bool | dict | list | tuple)
        given = json.dumps(value, ensure_ascii=False, default=repr) if is_json else repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "a number with thousands of digits"
    return given if len(given) <= 60 else given[:57] + "…"
