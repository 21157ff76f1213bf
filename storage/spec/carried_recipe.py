"""A picture's recipe within JPEG and WebP files: one property of XMP, which galleries pass over and editors keep.

PNG files have it in a text chunk of its own (`worker.serving.encode`). XMP: ISO 16684-1; a property is an element or,
where another program has written the packet again, an attribute.
"""

import html
import re
from xml.sax.saxutils import escape

#: The namespace of our property, by which it is found under whatever prefix.
NAMESPACE = "urn:diffusion-farm:1.0:"
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:farm="{NAMESPACE}"><farm:recipe>%s</farm:recipe></rdf:Description>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_PREFIX = re.compile(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(NAMESPACE)}[\"']")
#: Characters that XML cannot hold, and JSON can write otherwise. Below U+0020 JSON has written them so already.
_NOT_IN_XML = re.compile("[\ufffe\uffff\x7f-\x84\x86-\x9f]")


def packet(recipe: str) -> bytes:
    """Return a packet of XMP that carries a recipe, which is JSON."""
    writable = _NOT_IN_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", recipe)
    return (_PACKET % escape(writable)).encode()


def recipe_in(xmp: bytes) -> str | None:
    """Return the recipe that a packet of XMP carries, None if it has none.

    By our property alone: entities that a packet may declare are not expanded.
    """
    text = xmp.decode(errors="replace")
    if (bound := _PREFIX.search(text)) is None:
        return None
    name = re.escape(f"{bound[1]}:recipe")
    found = re.search(rf"<{name}\b[^>]*>([^<]*)</{name}\s*>|\b{name}\s*=\s*(?:\"([^\"<]*)\"|'([^'<]*)')", text)
    return None if found is None else html.unescape(next(filter(None, found.groups()), ""))
