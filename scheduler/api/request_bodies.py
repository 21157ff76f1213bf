"""The body of a submission: one specification, and lists that are zipped or combined."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from scheduler.intake import grid
from scheduler.intake.files.forms import read_delimiter
from scheduler.intake.files.wildcards import read_lists
from scheduler.intake.order import Order
from scheduler.intake.requests import SourcedRequest, at
from scheduler.intake.specify import draw_seed
from scheduler.intake.templates import Templates, has_choices
from storage.errors import BadSpecification
from storage.events.log import EventKind
from storage.rules.names import MOST_NAME_CHARACTERS, MOST_NOTE_CHARACTERS, NAME_PATTERN, checked_name, checked_note
from storage.rules.states import PriorityName
from storage.spec.picture import Prompt, Request

MAX_JOBS = 10_000
#: Parsing a thousand characters of templates takes a second.
MAX_TEMPLATE_CHARACTERS = 4_000
_MOST_VALUE_CHARACTERS = 500

_FIELDS = frozenset(Request.model_fields)
Columns = Annotated[dict[str, Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]], Field(max_length=30)]


RenderName = Annotated[
    str, Field(min_length=1, max_length=MOST_NAME_CHARACTERS, pattern=NAME_PATTERN), AfterValidator(checked_name)
]
RenderNote = Annotated[str, Field(min_length=1, max_length=MOST_NOTE_CHARACTERS), AfterValidator(checked_note)]


class PatchBody(BaseModel):
    """Say what to change of a render."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"priority": "bulk"}]})

    priority: PriorityName = Field(description="The new priority.")


class WebhookBody(BaseModel):
    """Say where to send events (Standard Webhooks 1.0.0; `GET /v1/webhooks/secret` returns the signing secret)."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=2000)] = Field(
        description="An https URL with a public address; FARM_WEBHOOK_PRIVATE allows others."
    )
    events: Annotated[
        list[EventKind], Field(min_length=1, max_length=len(EventKind), description="Which events are sent.")
    ] = [EventKind.RENDER_FINISHED]


class WildcardEntry(BaseModel):
    """Hold a value of a wildcard that is drawn more often than others, or less."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=_MOST_VALUE_CHARACTERS, description="The value.")]
    weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="Twice the weight is drawn twice as often."
    )


_Value = Annotated[str, Field(min_length=1, max_length=_MOST_VALUE_CHARACTERS)] | WildcardEntry
#: By name: what stands in two underscores on each side.
WildcardLists = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=100)], Annotated[list[_Value], Field(max_length=MAX_JOBS)]],
    Field(max_length=100),
]


class RenderBody(Request):
    """Say what to render: any field of a specification, once for all pictures or as a list in `zip` or `product`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a large red star on a blue background"},
                {"prompt": ["a red star", "a green circle"], "n": 2, "seed": 7},
                {
                    "zip": {"prompt": ["a red star", "a green circle"], "seed": [1, 2]},
                    "product": {"guidance_scale": [3.0, 7.5]},
                    "priority": "bulk",
                },
            ]
        }
    )

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_JOBS)] | None = Field(  # type: ignore[assignment]
        None, description="One prompt, or a list of them."
    )
    manifest: Annotated[str, Field(pattern="^file-[0-9a-f]{24}$")] | None = Field(
        None,
        description="The id of a prompt file of any length, uploaded to POST /v1/files with the purpose `manifest`.",
    )
    delimiter: Annotated[str, Field(max_length=20)] | None = Field(
        None,
        description="What separates the cells of a prompt file that is a table: a character, or `tab`. Default: known "
        "by its header.",
        examples=[";"],
    )
    templates: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE_CHARACTERS)]], Field(max_length=100)
    ] = Field(
        default_factory=list,
        description="Prompt templates instead of a prompt, such as `a {red|blue} __animal__`: every combination, or "
        "`random` of each. All of them, with the values that have choices of their own, have 4,000 characters at most.",
    )
    wildcards: WildcardLists = Field(
        default_factory=dict, description="The values of `__animal__` in templates, by the name `animal`."
    )
    random: Annotated[int, Field(ge=1, le=MAX_JOBS)] | None = Field(
        None, description="How many prompts to draw at random of each template; null: every combination."
    )
    zip: Columns = Field(
        default_factory=dict, description="Fields with one value per picture; all lists have the same length."
    )
    product: Columns = Field(
        default_factory=dict, description="Fields of which every combination of values is rendered."
    )
    n: Annotated[int, Field(ge=1, le=MAX_JOBS)] = Field(
        1, description="Pictures per combination; their seeds count up."
    )
    priority: PriorityName = Field("normal", description="Higher priorities are rendered first.")
    not_before: Annotated[str, Field(max_length=40)] | None = Field(
        None,
        description="Hold the render until this time of the time zone, or with an offset of its own (RFC 3339).",
        examples=["2026-12-01 02:00"],
    )
    window: Annotated[str, Field(max_length=11)] | None = Field(
        None, description="Render only at these times of day, such as 01:00-05:00; the rest waits for the next day."
    )
    timezone: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="Of `not_before` and `window`, such as Europe/Paris. Default: UTC."
    )
    name: RenderName | None = Field(None, description="What you call the render; the newest of a name is meant by it.")
    note: RenderNote | None = Field(None, description="Anything you want to remember about the render.")
    webhook: WebhookBody | None = Field(None, description="Where to send what happens to it.")
    dry_run: bool = Field(False, description="Check and count the pictures, and accept nothing.")

    @model_validator(mode="after")
    def _says_something(self) -> "RenderBody":
        if not self.templates and (self.wildcards or self.random is not None):
            raise ValueError(f"{'wildcards' if self.wildcards else 'random'}: only together with templates")
        if self.templates:
            if self._file() is not None or self.prompt is not None or self.prompt_embeds is not None:
                raise ValueError(f"templates: not together with prompt, prompt_embeds or {self._file() or 'manifest'}")
        elif (file := self._file()) is not None:
            if self._columns() or self.prompt is not None or self.prompt_embeds is not None:
                raise ValueError(f"{file}: not together with prompt, prompt_embeds, zip or product")
        elif not self._columns() and self.prompt is None and self.prompt_embeds is None:
            raise ValueError("prompt: missing")
        return self

    @field_validator("delimiter")
    @classmethod
    def _character(cls, said: str | None) -> str | None:
        return None if said is None else read_delimiter(said)

    @model_validator(mode="after")
    def _delimiter_of_something(self) -> "RenderBody":
        if self.delimiter is not None and self._file() is None:
            raise ValueError("delimiter: is that of a table, and no manifest is given")
        return self

    @model_validator(mode="after")
    def _zone_of_something(self) -> "RenderBody":
        if self.timezone is not None and self.not_before is None and self.window is None:
            raise ValueError("timezone: says in which zone not_before and window are, and neither is given")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "RenderBody":
        given = {name for name in self.model_fields_set & _FIELDS if getattr(self, name) is not None}
        # A list of prompts is one of the lists.
        if isinstance(self.prompt, list) and "prompt" not in self.zip:
            given.discard("prompt")
        if self.templates:
            given.add("prompt")
        grid.check(self._lists(), self.product, given)
        if self.jobs > MAX_JOBS:
            raise ValueError(
                f"n: {self.jobs} pictures in one call; the maximum is {MAX_JOBS}, a manifest takes up to ten million"
            )
        return self

    @property
    def jobs(self) -> int:
        """How many pictures are asked for; of each row of a manifest, and of each prompt that templates make."""
        return self.n * grid.size(self._lists(), self.product)

    def requests(self) -> Iterator[SourcedRequest]:
        """Yield a request for each combination, `n` not counted; zipped rows outermost, products varying fastest.

        Raises BadSpecification with the number of the first that is wrong.
        """
        shared, only = self.shared(), self.jobs == self.n
        for number, values in enumerate(grid.combinations(self._lists(), self.product), start=1):
            where = "" if only else f"request {number}"
            try:
                yield SourcedRequest(where, Request.parse({**shared, **values}))
            except BadSpecification as error:
                raise at(where, error) from None

    def order_of_templates(self) -> Order:
        """Return the order that templates make. Raises BadSpecification naming what is wrong; takes seconds."""
        wildcards = read_lists(
            {
                name: [one if isinstance(one, str) else one.model_dump() for one in values]
                for name, values in self.wildcards.items()
            }
        )
        # What is parsed: plain values are not.
        values = (one.text for some in wildcards.values() for one in some)
        parsed = sum(map(len, self.templates)) + sum(len(text) for text in values if has_choices(text))
        if parsed > MAX_TEMPLATE_CHARACTERS:
            raise BadSpecification(
                f"templates: {parsed:,} characters in templates and in values with choices of their own; the maximum "
                f"is {MAX_TEMPLATE_CHARACTERS:,}"
            )
        seed = draw_seed() if self.seed is None else self.seed
        templates = Templates(texts=tuple(self.templates), wildcards=wildcards, random=self.random, seed=seed)
        try:
            pictures = sum(templates.counts()) * self.jobs
        except BadSpecification as error:
            raise BadSpecification(f"templates: {error}") from None
        if pictures > MAX_JOBS:
            raise BadSpecification(
                f"templates: {pictures:,} pictures in one call; the maximum is {MAX_JOBS:,}: use fewer choices, or "
                "draw some of them (`random`)"
            )
        return Order(
            templates=templates,
            defaults=self.shared(),
            in_step=self._lists(),
            combined=self.product,
            pictures_each=self.n,
            seed=self.seed,
        )

    def shared(self) -> dict[str, Any]:
        """Return the fields that are given once for all pictures."""
        # A single seed is that of the first picture; the next ones count up from it.
        once = (self.model_fields_set & _FIELDS) - {"seed"}
        return {name: value for name in once if not isinstance(value := getattr(self, name), list)}

    def _file(self) -> str | None:
        """Return the field that names a file with the prompts; None: they are in the body."""
        return None if self.manifest is None else "manifest"

    def _lists(self) -> Mapping[str, list[Any]]:
        """Return the lists that go in step, a list of prompts among them."""
        return {**({"prompt": self.prompt} if isinstance(self.prompt, list) else {}), **self.zip}

    def _columns(self) -> set[str]:
        return {*self.zip, *self.product}
