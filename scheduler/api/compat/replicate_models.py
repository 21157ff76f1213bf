"""Replicate's API: models and their versions. A model of the farm has one version, which has its name."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest

from scheduler.api.access import CanRead
from scheduler.api.context import ApiContext, Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.problems import RESPONSES
from scheduler.results.predictions import MOST_PICTURES
from storage.errors import NotFound
from storage.rules.times import Time, rfc3339
from storage.spec.picture import Request

Owner = Annotated[str, Path(max_length=63, description="Anything.")]
Name = Annotated[str, Path(max_length=63, description="A registered model.")]
VersionId = Annotated[str, Path(max_length=63, description="The same.")]
_OWNER = "farm"


class VersionAnswer(BaseModel):
    """Describe a version of a model, as Replicate does."""

    id: str = Field(description="The model's alias.")
    created_at: Time = Field(description="The beginning of 1970: nobody knows.")
    cog_version: str = Field(description="Empty: Cog has no part in it.")
    openapi_schema: dict[str, Any] = Field(description="What `input` takes, and what `output` is.")


class ReplicateModelAnswer(BaseModel):
    """Describe a model, as Replicate does."""

    url: str = Field(description="Its address.")
    owner: str = Field(description="Always `farm`.")
    name: str = Field(description="Its alias.")
    description: str | None = Field(description="What it is made of.")
    visibility: str = Field("private", description="Always `private`.")
    github_url: None = Field(None, description="Always null.")
    paper_url: None = Field(None, description="Always null.")
    license_url: None = Field(None, description="Always null.")
    run_count: int = Field(0, description="Always 0: nobody counts.")
    cover_image_url: None = Field(None, description="Always null.")
    default_example: None = Field(None, description="Always null.")
    latest_version: VersionAnswer = Field(description="Its only one.")


class VersionPage(BaseModel):
    """List versions, as Replicate does."""

    previous: None = Field(None, description="Always null: there is one page.")
    next: None = Field(None, description="Always null: there is one page.")
    results: list[VersionAnswer] = Field(description="The only one.")


router = APIRouter(prefix="/v1/models", tags=["Replicate"], responses=RESPONSES, route_class=JsonRoute)


@router.get("/{owner}/{name}")
def get_replicate_model(
    context: Context, owner: Owner, name: Name, _caller: CanRead, request: HttpRequest
) -> ReplicateModelAnswer:
    """Return a model; its owner is ignored."""
    del owner
    version = _version(context, name)
    return ReplicateModelAnswer(
        url=f"{str(request.base_url).rstrip('/')}/v1/models/{_OWNER}/{name}",
        owner=_OWNER,
        name=name,
        description=f"{context.registry[name].kind}; GET /v1/models/{name} tells more",
        latest_version=version,
    )


@router.get("/{owner}/{name}/versions")
def list_versions(context: Context, owner: Owner, name: Name, _caller: CanRead) -> VersionPage:
    """List the versions of a model: one."""
    del owner
    return VersionPage(results=[_version(context, name)])


@router.get("/{owner}/{name}/versions/{version}")
def get_version(context: Context, owner: Owner, name: Name, version: VersionId, _caller: CanRead) -> VersionAnswer:
    """Return the version of a model, which has its name."""
    del owner
    if version != name:
        raise NotFound(f"no version {version[:40]!r} of the model {name[:40]!r}; its only one is named as it is")
    return _version(context, name)


def _version(context: ApiContext, name: str) -> VersionAnswer:
    """Return the version of a model. Raises NotFound."""
    model = context.registry[name]
    fields = Request.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = fields.pop("$defs", {})
    fields["properties"].pop("model", None)
    fields["properties"]["num_outputs"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_PICTURES,
        "default": 1,
        "description": "Pictures; their seeds count up.",
    }
    output = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}
    document = {
        "openapi": "3.1.0",
        "info": {"title": model.alias, "version": "1"},
        "paths": {},
        "components": {"schemas": {**schemas, "Input": {**fields, "title": "Input"}, "Output": output}},
    }
    return VersionAnswer(id=model.alias, created_at=rfc3339(0.0), cog_version="", openapi_schema=document)
