"""Remarks on what other tools would read in a prompt, and this picture has drawn as words."""

import re
from collections.abc import Iterator

from storage.spec import webui_oddities, webui_prompts

#: Options of sd-scripts, the web UI and Midjourney. Word processors make a dash of two hyphens; as dashes also stand in
#: sentences, only known options count behind one.
_OPTION = re.compile(
    r"(?:^|\s)(?:--[A-Za-z][\w-]*(?=[\s=]|$)"
    r"|[\u2013\u2014]-?(?:[nwhdsl]|ss|ar|v|no|seed|steps|width|height|cfg[_ ]?scale|negative_prompt|sampler)[ =]\S)"
)
#: Templates: `{a|b}`, `{2$$…}`, `${name…}`, `__wildcard__`.
_TEMPLATE = re.compile(r"\{[^{}]*\|[^{}]*\}|\{[\d-]*\$\$|\$\{\w|(?<!\w)__[^\W_](?:[\w/*.-]*(?:[^\W_]|\*))?__(?!\w)")
#: Compel: `(red)1.4`, `(red)++`, `red++`, `("a", "b").blend(1, 1)`.
_COMPEL = re.compile(r"\)(?:\d*\.\d+|\d+|\+{1,}|-{1,})(?![\w-])|(?<=[^\W\d])(?<!\bC)\+\+|\)\s*\.(?:blend|and|swap)\(")
#: NovelAI: `{{word}}`, `1.2::word::`.
_NOVELAI = re.compile(r"\{\{[^{}|$]+\}\}|(?<![\w.])-?\d*\.?\d+::[^:]*::")
#: What programs write into empty cells of a table (pandas, spreadsheets, databases).
_EMPTY_CELLS = frozenset({"nan", "null", "none", "<na>", "n/a", "#n/a", "nat", "undefined", "(null)"})
#: Lines of what the web UI and galleries show below a picture.
_SETTINGS = re.compile(r"(?:^|\\n)\s*(?:negative prompt:|steps: *\d)", re.IGNORECASE | re.MULTILINE)
#: Letters as HTML writes them.
_ENTITY = re.compile(r"&(?:amp|quot|apos|lt|gt|nbsp|#\d+);")

#: What is in every prompt that `remarks` says something of, unless it is as short as an empty cell's word.
_TELLING = ("(", ")", "[", "<", "{", ":", "&", "--", "__", "++", "\u2013", "\u2014", "/imagine", "AND", "BREAK")
_LONGER_THAN_EMPTY = 12


def may_be_remarked(prompt: str) -> bool:
    """Return whether `remarks` may say something of a prompt that is read as it stands."""
    if len(prompt) < _LONGER_THAN_EMPTY:
        return True
    for telling in _TELLING:  # noqa: SIM110 - `any` takes twice as long, and a manifest has a million prompts
        if telling in prompt:
            return True
    return False


def remarks(name: str, prompt: str, weighting: str | None) -> Iterator[str]:
    """Yield remarks on a prompt, or a negative one, of this name; the same words for all prompts."""
    if weighting == "webui":
        yield from webui_oddities.remarks(name, prompt)
    else:
        yield from webui_prompts.remarks(name, prompt)
    if len(prompt) < _LONGER_THAN_EMPTY and prompt.strip().lower() in _EMPTY_CELLS:
        yield f"{name}: {prompt.strip()!r} is drawn as a word; if an empty cell is meant, leave it empty"
    # Looking for a letter or two takes a hundredth of the time of a pattern, and a manifest has a million prompts.
    if prompt.lstrip().startswith("/imagine"):
        yield f"{name}: /imagine is drawn as a word here; leave it out"
    if ("--" in prompt or "\u2013" in prompt or "\u2014" in prompt) and _OPTION.search(prompt):
        yield (
            f"{name}: options such as --steps 4 are drawn as words here; give them as fields, or on the lines of a "
            "prompt file (.txt), with two hyphens"
        )
    if ("{" in prompt or "__" in prompt) and _TEMPLATE.search(prompt):
        drawn = "{red|blue}, __animal__ and ${name} are drawn as words here"
        yield f"{name}: {drawn}; --template (over HTTP: templates) expands them"
    if weighting != "compel" and (")" in prompt or "++" in prompt) and _COMPEL.search(prompt):
        yield f"{name}: (red)1.4, red++ and .blend(…) are drawn as words here; prompt_weighting compel reads them"
    if ":" in prompt and _SETTINGS.search(prompt):
        yield (f"{name}: lines such as Steps: 20 are drawn as words here; a file of such blocks (.txt) is read")
    if ("{{" in prompt or "::" in prompt) and _NOVELAI.search(prompt):
        yield f"{name}: {{{{word}}}} and 1.2::word:: of NovelAI are drawn as words here"
    if "{prompt}" in prompt:
        yield f"{name}: {{prompt}} is drawn as a word here; styles are not filled in, --template makes prompts of parts"
    if "&" in prompt and _ENTITY.search(prompt):
        yield f"{name}: &amp; and the like, as HTML writes letters, are drawn as they stand here"
    if "embedding:" in prompt:
        yield f"{name}: embedding:NAME is drawn as words here; the farm has no embeddings by name"
