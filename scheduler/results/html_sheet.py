"""Contact sheets as a self-contained HTML page with each picture's prompt and seed, and a search box."""

import html
import io
import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

from scheduler.results.contact_sheet import Tile
from scheduler.results.picture_checks import PictureChecks
from scheduler.results.thumbnails import shrunk
from storage.errors import InvalidInput

#: Pictures on one page: beyond that browsers get slow, and nobody scrolls.
MOST = 5000
_SIDE = 256

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --paper: #fafaf8; --ink: #1e1e1e; --pale: #777; --line: #ddd; --mark: #b00020 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161616; --ink: #eee; --pale: #999; --line: #333; --mark: #ff8a80 }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px/1.4 system-ui, sans-serif }
header { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); padding: 12px 20px;
         display: flex; gap: 16px; align-items: baseline; flex-wrap: wrap }
h1 { font-size: 16px; margin: 0 }
input { font: inherit; padding: 4px 8px; flex: 1; min-width: 160px; max-width: 420px }
output, small { color: var(--pale) }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 16px; padding: 20px }
figure { margin: 0; content-visibility: auto; contain-intrinsic-size: 180px 260px }
figure[hidden] { display: none }
img { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; image-rendering: auto; background: var(--line) }
img.small { image-rendering: pixelated }
figcaption { overflow-wrap: anywhere }
small { white-space: pre-wrap }
mark { background: none; color: var(--mark) }
</style>
<header>
<h1>$title</h1>
<input type="search" placeholder="filter by prompt, seed, label or remark" aria-label="filter">
<output></output>
</header>
<main>
""")
_FIGURE = Template(
    '<figure><img loading="lazy"$small width="$width" height="$height" alt="$prompt"'
    ' src="data:image/webp;base64,$data">'
    "<figcaption>$prompt<br><small>$note</small>$remarks</figcaption></figure>\n"
)
_END = """</main>
<script>
const figures = [...document.querySelectorAll("figure")]
const texts = figures.map(figure => figure.textContent.toLowerCase())
const output = document.querySelector("output")
function show(words) {
  let shown = 0
  figures.forEach((figure, number) => {
    figure.hidden = !words.every(word => texts[number].includes(word))
    shown += !figure.hidden
  })
  output.textContent = `${shown} of ${figures.length}${found && "; " + found}`
}
document.querySelector("input").addEventListener("input", event =>
  show(event.target.value.toLowerCase().split(/\\s+/).filter(Boolean)))
show([])
</script>
</html>
"""


def write(tiles: Iterable[Tile], path: Path, *, title: str, findings: PictureChecks) -> int:
    """Write the page as its pictures come, then the findings; return how many pictures it has.

    Raises InvalidInput if the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(_PAGE.substitute(title=html.escape(title)))
            for tile in tiles:
                file.write(_figure(tile))
                count += 1
            # Known only now that every picture was looked at.
            file.write(f"<script>const found = {json.dumps(findings.words())}</script>\n")
            file.write(_END)
        unfinished.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror or error}); choose another file") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _figure(tile: Tile) -> str:
    with Image.open(io.BytesIO(tile.picture)) as picture:
        size = picture.size
    return _FIGURE.substitute(
        small=' class="small"' if max(size) <= _SIDE // 2 else "",
        width=size[0],
        height=size[1],
        prompt=html.escape(tile.prompt),
        data=b64encode(shrunk(tile.picture, _SIDE)).decode(),
        note=html.escape(tile.note),
        remarks="".join(f"<br><mark>{html.escape(remark)}</mark>" for remark in tile.remarks),
    )
