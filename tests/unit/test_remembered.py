"""What was found out about a text is found out again only when the text or the tool has changed."""

from pathlib import Path

from tests.tools.remembered import remembering


def test_a_text_is_looked_at_once_until_it_or_the_tool_changes(tmp_path: Path) -> None:
    tool = tmp_path / "lengths.py"
    looked: list[str] = []

    def length(text: str) -> int:
        looked.append(text)
        return len(text)

    def lengths(*texts: str) -> list[int]:
        looked.clear()
        with remembering(str(tool), tmp_path / "kept") as remember:
            return [remember(text, length) for text in texts]

    tool.write_text("one")
    assert (lengths("a", "bb", "a"), looked) == ([1, 2, 1], ["a", "bb"])
    assert (lengths("bb", "a"), looked) == ([2, 1], [])
    assert (lengths("bb", "ccc"), looked) == ([2, 3], ["ccc"])
    # What nobody asked for the last time is not kept.
    assert (lengths("a"), looked) == ([1], ["a"])
    tool.write_text("another")
    assert (lengths("a"), looked) == ([1], ["a"])


def test_what_cannot_be_read_is_found_out_again(tmp_path: Path) -> None:
    tool = tmp_path / "lengths.py"
    tool.touch()
    (tmp_path / "lengths.json").write_text("{")
    with remembering(str(tool), tmp_path) as remember:
        assert remember("text", len) == 4
