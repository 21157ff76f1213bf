"""The programs in the cards of the models that come with the farm draw what their prompts say."""

import ast
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from examples.shapes.judge import judge
from tests.snippets import PAGES, TOP, Snippet, name_of, snippets_of

PROGRAMS = [snippet for page in PAGES for snippet in snippets_of(page) if snippet.uses_a_model]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: name_of(program.page))
def test_the_program_of_a_model_card_draws_what_it_says(
    program: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").symlink_to(TOP / "worker")
    silhouette = Image.new("L", (64, 64))
    ImageDraw.Draw(silhouette).rectangle((20, 20, 44, 44), fill=255)
    silhouette.save(tmp_path / "silhouette.png")
    monkeypatch.chdir(tmp_path)
    *lines, last = ast.parse(program.text).body
    assert isinstance(last, ast.Expr), program.page
    names: dict[str, Any] = {}

    exec(compile(ast.Module(lines, []), str(program.page), "exec"), names)
    drawn = eval(compile(ast.Expression(last.value), str(program.page), "eval"), names)

    assert (judge(drawn).colour, judge(drawn).background) == ("red", "blue")
