"""The options that say what to render, shared by several commands, and the order that they make."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from scheduler.cli.like_picture import LikePicture, like_picture
from scheduler.cli.output import say
from scheduler.intake import grid
from scheduler.intake.files.forms import read_delimiter
from scheduler.intake.manifests import KINDS
from scheduler.intake.order import Order
from scheduler.intake.sources import opened, opened_at_firing
from scheduler.intake.specify import draw_seed
from scheduler.intake.templates import Templates, read_wildcards
from storage.errors import BadSpecification
from storage.settings import Settings
from storage.spec.picture import Request


def _separator(_context: click.Context, _param: click.Parameter, said: str | None) -> str | None:
    """Return the character that separates cells. Raises BadParameter for what cannot."""
    try:
        return None if said is None else read_delimiter(said)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_SOURCES = (
    click.argument("prompts", nargs=-1, metavar="[PROMPT]..."),
    click.option(
        "--prompts",
        "file",
        metavar="FILE",
        help="Prompt file (.txt, .jsonl, .csv, .tsv, .json, .parquet), s3://BUCKET/KEY, or - for standard input.",
    ),
    click.option(
        "--delimiter",
        callback=_separator,
        metavar="CHAR",
        help="What separates the cells of a table FILE: a character, or tab (default: known by its header).",
    ),
    click.option(
        "--prompts-format", "kind", type=click.Choice(KINDS), help="Format of FILE, if its name does not tell."
    ),
    click.option(
        "--template",
        "templates",
        multiple=True,
        metavar="TEXT",
        help='Prompt template, such as "a {red|blue} __animal__".',
    ),
    click.option(
        "--wildcards",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of wildcard files, such as animal.txt for __animal__.",
    ),
    click.option(
        *("--random", "random"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Draw N random prompts per template (default: every combination).",
    ),
    click.option(
        *("--from", "picture"),
        type=click.Path(path_type=Path),
        metavar="PICTURE",
        help="Render with the settings that this picture's file names, but for those given beside: a picture of the "
        "farm's, the web UI's, ComfyUI's, InvokeAI's, SwarmUI's, Fooocus's or NovelAI's.",
    ),
    click.option("--zip", "in_step", multiple=True, metavar="FIELD=V,V", help="Vary fields in step; repeatable."),
    click.option(
        "--product",
        "combined",
        multiple=True,
        metavar="FIELD=V,V",
        help="Render every combination of these values; repeatable.",
    ),
    click.option(
        *("-n", "--repeat", "pictures_each"), type=click.IntRange(min=1), default=1, help="Pictures per prompt."
    ),
    click.option(
        "--seed", type=int, help="Seed of the first picture; the next ones count up (default: random, recorded)."
    ),
)
_FIELDS = (
    click.option("--model", metavar="ALIAS", help="Model alias (see `farm models`)."),
    click.option("--width", type=int, help="Width in pixels."),
    click.option("--height", type=int, help="Height in pixels."),
    click.option("--size", metavar="WIDTHxHEIGHT", help="Width and height at once, such as 768x512."),
    click.option(
        "--aspect", metavar="W:H", help="Aspect ratio, such as 16:9, with as many pixels as the model's size."
    ),
    click.option("--steps", "num_inference_steps", type=int, help="Denoising steps."),
    click.option("--guidance", "guidance_scale", type=float, help="Guidance scale; 1 or less turns guidance off."),
    click.option("--negative", "negative_prompt", metavar="TEXT", help="Negative prompt."),
    click.option(
        "--sampler", metavar="NAME", help='Sampler, such as DDIM, "Euler a" or "DPM++ 2M SDE Karras" (farm samplers).'
    ),
    click.option("--eta", type=float, help="DDIM's η, 0 to 1."),
    click.option("--clip-skip", type=int, metavar="N", help="Skip the last N layers of the text encoder."),
    click.option(
        "--weighting",
        "prompt_weighting",
        type=click.Choice(["compel", "webui", "a1111"]),
        help="Read weights in the prompt: compel (red)1.4, word++; webui or a1111 (red:1.4), [red:blue:0.5].",
    ),
    click.option(
        "--long-prompts",
        type=click.Choice(["chunk", "cut", "refuse"]),
        help="What to do with more words than the model reads: read them in chunks, ignore them with a remark, refuse.",
    ),
    click.option(
        "--control", "control_images", multiple=True, metavar="IMAGE", help="Conditioning image; one per ControlNet."
    ),
    click.option(
        "--control-scale",
        "controlnet_conditioning_scale",
        type=float,
        multiple=True,
        metavar="S",
        help="Strength of each ControlNet.",
    ),
    click.option(
        *("--control-start", "control_guidance_start"),
        type=float,
        multiple=True,
        metavar="SHARE",
        help="Share of the steps at which each ControlNet starts, 0 to 1.",
    ),
    click.option(
        *("--control-end", "control_guidance_end"),
        type=float,
        multiple=True,
        metavar="SHARE",
        help="Share of the steps at which each ControlNet stops, 0 to 1.",
    ),
    click.option(
        "--guess-mode", is_flag=True, default=None, help="Guess mode: the ControlNet works without the prompt."
    ),
    click.option(
        "--embeds", "prompt_embeds", metavar="FILE", help="Prompt embeddings (safetensors) instead of a prompt."
    ),
    click.option(
        "--lora", "loras", multiple=True, metavar="ALIAS=SCALE", help="LoRA alias and scale; repeatable, LoRAs add up."
    ),
    click.option(
        "--original-size", type=(int, int), metavar="HEIGHT WIDTH", help="SDXL micro-conditioning: original size."
    ),
    click.option(
        "--crop", "crops_coords_top_left", type=(int, int), metavar="TOP LEFT", help="SDXL micro-conditioning: crop."
    ),
    click.option(
        "--target-size", type=(int, int), metavar="HEIGHT WIDTH", help="SDXL micro-conditioning: target size."
    ),
    click.option(
        "--prior-steps", "prior_num_inference_steps", type=int, help="Denoising steps of the Kandinsky prior."
    ),
    click.option("--prior-guidance", "prior_guidance_scale", type=float, help="Guidance scale of the Kandinsky prior."),
)
#: As prompt files are called.
_FILE = re.compile(rf"\S{{1,200}}\.({'|'.join(KINDS)})", re.IGNORECASE)
_SOURCE_NAMES = (
    *("prompts", "file", "delimiter", "kind", "templates", "wildcards", "random", "picture"),
    *("in_step", "combined", "pictures_each", "seed"),
)
#: Fields with an option of their own; the excluded ones describe a single picture.
_FIELD_NAMES = sorted(Request.model_fields.keys() - {"prompt", "seed", "custom_id", "labels"})


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """The options as given, not checked yet."""

    prompts: tuple[str, ...]
    file: str | None
    delimiter: str | None
    kind: str | None
    templates: tuple[str, ...]
    wildcards: Path | None
    random: int | None
    in_step: tuple[str, ...]
    combined: tuple[str, ...]
    pictures_each: int
    seed: int | None
    fields: Mapping[str, Any]
    #: A picture whose file names settings.
    picture: Path | None = None
    #: A prompt file that a schedule reads anew each time.
    at_firing: str | None = None

    @property
    def names_prompts(self) -> bool:
        """Whether it says what to draw."""
        varied = {name.partition("=")[0].strip() for name in (*self.in_step, *self.combined)}
        said = {*self.fields, *varied} & {"prompt", "prompt_embeds"}
        return bool(self.prompts or self.file or self.templates or self.at_firing or self.picture or said)

    @contextmanager
    def order(self, settings: Settings) -> Iterator[Order]:
        """Yield the order. Raises InvalidInput naming the wrong option, and what reading the file raises."""
        in_step = grid.read_columns(self.in_step, "--zip")
        combined = grid.read_columns(self.combined, "--product")
        like = like_picture(self.picture, settings) if self.picture is not None else LikePicture()
        prompts = self.prompts
        if not (prompts or self.file or self.templates or self.at_firing or "prompt_embeds" in self.fields):
            prompts = like.prompts
        named = bool(prompts or self.file or self.templates or self.at_firing)
        if self.at_firing is not None and (self.prompts or self.file or self.templates):
            raise click.UsageError("--prompts-at-firing says all prompts; drop the others, or put them into its file")
        given = {*self.fields, *(["prompt"] if named else ()), *(["seed"] if self.seed is not None else ())}
        like.check({*given, *in_step, *combined})
        said = {*self.fields, *like.fields, *in_step, *combined}
        if not named and {"prompt", "prompt_embeds"}.isdisjoint(said):
            raise click.UsageError(
                'nothing to render: give a prompt, as in farm render "a red star", or --prompts FILE'
            )
        for prompt in self.prompts:
            _check_is_prompt(prompt)
        try:
            grid.check(in_step, combined, given)
        except ValueError as error:
            raise BadSpecification(f"--{error}" if str(error).startswith("zip") else str(error)) from None
        defaults = like.beside(checked_fields(self.fields, self.seed))
        for remark in like.remarks:
            say(remark)
        templates = self._templates()
        with self._manifest(settings) as manifest:
            yield Order(
                prompts=prompts,
                manifest=manifest,
                templates=templates,
                defaults=defaults,
                in_step=in_step,
                combined=combined,
                pictures_each=self.pictures_each,
                seed=like.seed if self.seed is None else self.seed,
            )

    def _templates(self) -> Templates | None:
        if not self.templates:
            if self.wildcards is not None or self.random is not None:
                raise click.UsageError("--wildcards and --random need a --template")
            return None
        made = Templates(
            texts=self.templates,
            wildcards=read_wildcards(self.wildcards) if self.wildcards is not None else {},
            random=self.random,
            seed=draw_seed() if self.seed is None else self.seed,
        )
        # A folder has wildcards for many templates; that none of them is meant is a mistake.
        if made.wildcards and len(made.unread()) == len(made.wildcards):
            first = f"__{next(iter(made.wildcards))}__"
            say(f"--wildcards {self.wildcards}: no --template names any of its wildcards, such as {first}")
        return made

    def _manifest(self, settings: Settings) -> Any:
        if self.at_firing is not None:
            return opened_at_firing(self.at_firing, settings, kind=self.kind, delimiter=self.delimiter)
        if self.file is None:
            if self.delimiter is not None:
                raise click.UsageError("--delimiter is that of a table; give one with --prompts FILE")
            return nullcontext()
        return opened(self.file, settings, kind=self.kind, delimiter=self.delimiter)


def with_order_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options to a command, which gets them as one argument, `order_options`."""

    @functools.wraps(command)
    def with_asking(*args: Any, **options: Any) -> Any:
        sources = {name: options.pop(name) for name in _SOURCE_NAMES}
        fields = {name: options.pop(name) for name in _FIELD_NAMES}
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        return command(*args, order_options=OrderOptions(**sources, fields=given), **options)

    for decorate in reversed((*_SOURCES, *_FIELDS)):
        with_asking = decorate(with_asking)
    return with_asking


def _check_is_prompt(prompt: str) -> None:
    """Raise UsageError for what is meant as a prompt file."""
    if prompt == "-":
        raise click.UsageError("- is no prompt; --prompts - reads prompts from standard input")
    if _FILE.fullmatch(prompt) and Path(prompt).is_file():
        raise click.UsageError(f"{prompt} is a file; --prompts {prompt} renders the prompts in it")


def checked_fields(fields: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """Return the options of a picture as a request has them. Raises BadSpecification."""
    if "loras" in fields:
        fields = {**fields, "loras": ",".join(fields["loras"])}
    checked = Request.parse({"prompt": "-", **fields, **({} if seed is None else {"seed": seed})})
    return checked.model_dump(exclude_none=True, exclude={"prompt", "seed"})
