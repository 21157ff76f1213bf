"""The programs on the shipped models' cards draw what their prompts say."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from examples.shapes.judge import judge

TOP = Path(__file__).parents[2]
CARDS = sorted((TOP / "worker/models").glob("*/README.md"))
PROGRAMS = [(card, code) for card in CARDS for code in re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)]


@pytest.mark.parametrize(
    ("card", "code"), PROGRAMS, ids=lambda part: part.parent.name if isinstance(part, Path) else ""
)
def test_the_program_on_a_card_draws_what_it_says(
    card: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worker", "silhouette.png"):
        if (TOP / name).exists():
            (tmp_path / name).symlink_to(TOP / name)
    silhouette = Image.new("L", (64, 64))
    ImageDraw.Draw(silhouette).rectangle((20, 20, 44, 44), fill=255)
    silhouette.save(tmp_path / "silhouette.png")
    monkeypatch.chdir(tmp_path)
    *lines, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), card
    names: dict[str, Any] = {}
    exec(compile(ast.Module(lines, []), str(card), "exec"), names)
    picture = eval(compile(ast.Expression(last.value), str(card), "eval"), names)
    assert judge(picture).colour == "red"
    assert judge(picture).background == "blue"
