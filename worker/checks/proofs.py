"""What the farm promises of every picture, proved with a model: neighbours, lists of prompts, seeds, sizes."""

from collections.abc import Callable
from typing import Any

from storage.errors import BadSpecification, OutOfMemory, RenderFault
from storage.spec.capabilities import pipeline_of, size_multiple
from storage.spec.guidance import is_guided
from storage.spec.model_checks import CheckFinding
from storage.spec.model_files import own_configuration
from worker.checks.drawing import ROUNDING, Drawer, Pictures, difference, largest, said

#: Pictures in a batch. As many rows as fit hold four; with fewer, two.
_TOGETHER = (4, 2)
_NEGATIVE = "blurry, red, text"
#: Sides that may have to be multiples of.
_MULTIPLES = (8, 16, 32, 64, 128)
_NO_ROOM = "does not fit in memory"

ON_NEIGHBOURS = "its pictures depend on which others are rendered with them"


def fewer_if_need_be(prove: Callable[[int], CheckFinding], check: str) -> CheckFinding:
    """Prove something of several pictures together, or of fewer if memory runs out."""
    for together in _TOGETHER:
        try:
            return prove(together)
        except OutOfMemory:
            continue
    words = f"not checked: there is no memory for {_TOGETHER[-1]} pictures in one call; each is rendered alone"
    return CheckFinding(check=check, held=None, words=words)


def alone_or_in_a_batch(drawer: Drawer, pictures: Pictures) -> CheckFinding:
    """Compare each picture of a batch with itself alone."""

    def prove(together: int) -> CheckFinding:
        specs = pictures.some(together)
        batch = drawer.draw(specs)
        differs = largest([(drawer.draw([spec])[0], drawn) for spec, drawn in zip(specs, batch, strict=True)])
        if differs <= ROUNDING:
            words = f"each of {together} pictures is the same alone ({said(differs)})"
        else:
            words = (
                f"a picture alone and among {together} differ by {said(differs)}: by the shape of the call, or worse"
            )
        return CheckFinding(check="batch", held=differs <= ROUNDING, words=words)

    return fewer_if_need_be(prove, "batch")


def among_strangers(drawer: Drawer, pictures: Pictures) -> CheckFinding:
    """Put a picture into the same place of calls of the same shape, beside others: it must be the same bits."""

    def prove(together: int) -> CheckFinding:
        specs = pictures.some(together)
        others = [pictures.stranger(number, sampler=pictures.model.sampler) for number in range(together)]
        first = drawer.draw(specs)
        differs = 0
        for place in (0, together - 1):
            mixed = [specs[place] if number == place else other for number, other in enumerate(others)]
            differs = max(differs, difference(drawer.draw(mixed)[place], first[place]))
        joined = _joined_late(drawer, pictures, together)
        held = differs <= ROUNDING and joined <= ROUNDING
        return CheckFinding(check="strangers", held=held, words=_told_of_strangers(drawer, together, differs, joined))

    return fewer_if_need_be(prove, "strangers")


def _told_of_strangers(drawer: Drawer, together: int, differs: int, joined: int) -> str:
    if differs > ROUNDING:
        return f"a picture differs by {said(differs)} with other prompts and seeds in the other places of its call"
    same = f"with other prompts and seeds in the other {together - 1} places a picture is the same ({said(differs)})"
    if drawer.loop is None:
        return same
    if joined > ROUNDING:
        return f"a picture that joined others at other steps and made again alone differ by {said(joined)}"
    return (
        f"{same}; so is one that joined others at other steps, samplers and scales, made again alone ({said(joined)})"
    )


def _joined_late(drawer: Drawer, pictures: Pictures, together: int) -> int:
    """Have a picture join others that have begun; return by how much it differs from the same calls made alone.

    Only slots have it; 0 without.
    """
    loop = drawer.loop
    if loop is None:
        return 0
    ways: list[dict[str, Any]] = [{}, {"guidance_scale": 1.0}]
    if sampler := pictures.other_sampler():
        ways.append({"sampler": sampler})
    begun = [loop.admit(pictures.stranger(number, **ways[number % len(ways)])) for number in range(together - 1)]
    drawer.tick(begun)
    spec = pictures.of(0)
    slot = loop.admit(spec)
    while drawer.tick([slot, *begun] if slot.made < slot.calls else begun):
        pass
    [found] = drawer.develop([slot])
    return difference(found, drawer.again(spec, found.recipe))


def prompt_list(drawer: Drawer, pictures: Pictures) -> CheckFinding:
    """Draw a list of prompts that say no negative prompt of their own; then one that does."""
    specs = [pictures.stranger(number) for number in range(2)]
    try:
        batch = drawer.draw(specs)
    except OutOfMemory:
        return CheckFinding(
            check="prompts", held=None, words="not checked: there is no memory for two pictures in one call"
        )
    differs = largest([(drawer.draw([spec])[0], drawn) for spec, drawn in zip(specs, batch, strict=True)])
    if difference(batch[0], batch[1]) <= ROUNDING:
        return CheckFinding(check="prompts", held=False, words="two prompts with two seeds gave the same picture")
    default = "the default negative prompt" if pictures.model.negative_prompt else "no negative prompt"
    words = f"a list of prompts with {default} gives each its picture ({said(differs)})"
    held = differs <= ROUNDING
    if not held:
        words = f"of a list of prompts with {default}, a picture differs by {said(differs)} from itself alone"
    if not pictures.takes("negative_prompt"):
        return CheckFinding(check="prompts", held=held, words=f"{words}; it takes no negative prompt")
    negative = pictures.stranger(0, negative_prompt=_NEGATIVE)
    if not is_guided(negative, pipeline_of(pictures.model), own_configuration(pictures.model)):
        return CheckFinding(check="prompts", held=held, words=f"{words}; unguided, it reads no negative prompt")
    has_effect = difference(drawer.draw([negative])[0], drawer.draw([specs[0]])[0]) > 0
    words += "; a negative prompt of one's own changes it" if has_effect else "; a negative prompt changes nothing"
    return CheckFinding(check="prompts", held=held and has_effect, words=words)


def seed_twice(drawer: Drawer, pictures: Pictures) -> CheckFinding:
    """Draw the same picture twice, and with another seed; something else is drawn between."""
    spec = pictures.of(0)
    [once] = drawer.draw([spec])
    drawer.draw([pictures.stranger(0)])
    [again] = drawer.draw([spec])
    [other] = drawer.draw([pictures.of(0, seed=spec.seed + 1)])
    differs = difference(once, again)
    if differs:
        words = f"the same seed gave two pictures that differ by {said(differs)}"
        return CheckFinding(check="seed", held=False, words=words)
    if difference(once, other) == 0:
        return CheckFinding(check="seed", held=False, words="another seed gave the same picture: the seed is not read")
    return CheckFinding(
        check="seed", held=True, words="the same seed gave the same picture twice; another seed, another one"
    )


def size_multiples(drawer: Drawer, pictures: Pictures) -> tuple[CheckFinding, int]:
    """Try sides that are multiples of 8, 16 … pixels and of no more; return the least that gives what was asked.

    The farm's own check of sizes is passed by, to see what the model itself does.
    """
    told, least = [], None
    for multiple in _MULTIPLES:
        # Of so much and of no more.
        width = max(1, pictures.width // (2 * multiple)) * 2 * multiple + multiple
        height = pictures.height // 128 * 128 or 128
        outcome = _outcome(drawer, pictures, width, height)
        if outcome is None:
            least = multiple
            break
        told.append(f"{width}×{height} {outcome}")
        if outcome == _NO_ROOM:
            break
    allowed = size_multiple(pictures.model)
    if least is None:
        held, words = None, f"not known: {'; '.join(told)}"
    elif least > allowed:
        held = False
        words = f"{'; '.join(told)}: sides must be multiples of {least}, where the farm took {allowed} until now"
    else:
        held = True
        words = f"sides of multiples of {allowed} are drawn as asked, others refused when submitted"
        words += f" (the model alone: {'; '.join(told)})" if told else ""
    return CheckFinding(check="sizes", held=held, words=words), max(allowed, least or 0)


def _outcome(drawer: Drawer, pictures: Pictures, width: int, height: int) -> str | None:
    """Return what becomes of a size: None: it is drawn as asked."""
    spec = pictures.of(0, num_inference_steps=pictures.few_steps)
    try:
        # By a call of the pipeline, whose own doing is asked for.
        result = drawer.loaded.render([spec.model_copy(update={"width": width, "height": height})], drawer.on_step)
    except (RenderFault, BadSpecification) as error:
        if isinstance(error, OutOfMemory):
            return _NO_ROOM
        return "is refused"
    drawn = result.pictures[0].size
    return None if drawn == (width, height) else f"is rounded to {drawn[0]}×{drawn[1]}"
