"""The snippets of the project's pages: fenced blocks that people copy, so that every one of them is run by a test.

`tests/acceptance/test_snippets.py` runs commands and programs, `tests/meaning/test_model_cards.py` those that use a
model by itself.
"""

import re
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in TOP.rglob("*.md")
    if not any(part.startswith(".") and part != ".github" for part in path.relative_to(TOP).parts)
)
#: Languages of blocks that are run; a block without any is output, or a drawing.
LANGUAGES = ("python", "console", "sh")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    page: Path
    #: Of its first line.
    line: int
    language: str
    text: str
    #: The block right behind it, if that has no language: what it prints.
    output: str | None

    @property
    def commands(self) -> list[str]:
        """Its commands, one a line; what a console answers is left out, and so are here-documents and programs."""
        if self.language == "python":
            return []
        text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", self.text, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip()]
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if not line.startswith("#")]

    @property
    def uses_a_model(self) -> bool:
        """Whether it opens a model with Diffusers, without any farm."""
        return self.language == "python" and "import" in self.text and "diffusers" in self.text


def snippets_of(page: Path) -> list[Snippet]:
    """The blocks of a page that have a language, in their order."""
    text = page.read_text()
    blocks = list(_BLOCK.finditer(text))
    found: list[Snippet] = []
    for number, block in enumerate(blocks):
        behind = blocks[number + 1] if number + 1 < len(blocks) else None
        prints = behind is not None and not behind[1] and not text[block.end() : behind.start()].strip()
        if block[1]:
            found.append(
                Snippet(
                    page=page,
                    line=text.count("\n", 0, block.start(2)) + 1,
                    language=block[1],
                    text=block[2],
                    output=behind[2] if behind is not None and prints else None,
                )
            )
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(TOP))
