"""The first address, and the kinds of problems: what a caller finds without a key."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from scheduler.api.context import Context
from scheduler.api.json_bodies import JsonRoute
from scheduler.api.page.front import front_page
from scheduler.api.problem_kinds import KINDS, ProblemCode, ProblemKind, address_of
from scheduler.api.problems import MEDIA_TYPE, Problem


class WelcomeAnswer(BaseModel):
    """Say what this is, and where to go on."""

    name: str = Field(description="What answers here.")
    version: str = Field(description="The farm's version.")
    documentation: str = Field(description="A page that describes every address, for people.")
    openapi: str = Field(description="The same for programs (OpenAPI 3.1).")
    renders: str = Field(description="Where to submit renders, and list them.")
    models: str = Field(description="The models that there are.")
    problems: str = Field(description="The kinds of problems that answers tell of.")
    ready: str = Field(description="Whether the farm can render now.")


class ProblemKindAnswer(BaseModel):
    """Describe a kind of problem."""

    type: str = Field(description="Its address, as in problem documents.", examples=["/problems/not_found"])
    code: ProblemCode = Field(description="Its name, for programs; OpenAI's errors have it, too.")
    status: int = Field(description="The HTTP status that it mostly comes with.")
    title: str = Field(description="What it is, in a few words.")
    meaning: str = Field(description="What it means, and what to do.")

    @classmethod
    def of(cls, code: ProblemCode, kind: ProblemKind) -> "ProblemKindAnswer":
        """Return what is said of a kind."""
        return cls(type=address_of(code), code=code, status=kind.status, title=kind.title, meaning=kind.meaning)


router = APIRouter(tags=["farm"], route_class=JsonRoute)
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "Unprocessable Content", "content": {MEDIA_TYPE: {}}}
}


@router.get("/", response_model=WelcomeAnswer, responses={303: {"description": "Browsers are led to log in."}})
def welcome(request: Request, context: Context) -> Response | WelcomeAnswer:
    """Say where to go on; browsers get the page of the farm."""
    if "text/html" in request.headers.get("accept", ""):
        return front_page(request, context)
    return WelcomeAnswer(
        name="Diffusion Farm",
        version=request.app.version,
        documentation="/docs",
        openapi="/openapi.json",
        renders="/v1/renders",
        models="/v1/models",
        problems="/problems",
        ready="/readyz",
    )


@router.get("/problems")
def list_problems() -> list[ProblemKindAnswer]:
    """List the kinds of problems that answers tell of."""
    return [ProblemKindAnswer.of(code, kind) for code, kind in KINDS.items()]


@router.get("/problems/{code}", responses=_UNKNOWN)
def describe_problem(code: Annotated[ProblemCode, Path(description="Such as `not_found`.")]) -> ProblemKindAnswer:
    """Describe a kind of problem: where the `type` of a problem document leads."""
    return ProblemKindAnswer.of(code, KINDS[code])
