"""Finding renders by what people call them: an id, a name, or `@` for the last one."""

import re

from storage.errors import InvalidInput, NotFound
from storage.renders.filters import RenderFilter
from storage.renders.views import JobView, RenderView, Views

LAST = "@"
_JOB_OF_LAST = re.compile(r"@-(\d{1,9})")
#: Renders of one name that are looked at, to find out whose they are.
_MOST = 200


def find_render(views: Views, said: str, *, owner: str) -> RenderView:
    """Return the render that somebody means: by its id, or the newest of that name, their own first.

    Raises NotFound; InvalidInput where the name is that of several other owners' renders.
    """
    if said == LAST:
        last = views.renders(limit=1, owner=owner)
        if not last:
            raise NotFound(f"{LAST} is the last render of {owner}, and there is none; `farm list` lists those of all")
        return last[0]
    try:
        return views.render(said)
    except NotFound:
        found = views.renders(limit=1, which=RenderFilter(name=said, owner=owner))
        others = [] if found else views.renders(limit=_MOST, which=RenderFilter(name=said))
    if not found and not others:
        raise NotFound(f"no render with id or name {said[:40]!r}; `farm list` lists them")
    if len(owners := sorted({one.owner for one in others})) > 1:
        raise InvalidInput(
            f"{', '.join(owners[:5])} have renders named {said[:40]!r}; give the id that `farm list` tells"
        )
    return (found or others)[0]


def find_job(views: Views, said: str, *, owner: str) -> JobView:
    """Return the job that somebody means: by its id, or `@-000012` of their last render. Raises NotFound."""
    if (match := _JOB_OF_LAST.fullmatch(said)) is not None:
        return views.job(f"{find_render(views, LAST, owner=owner).id}-{int(match[1]):06d}")
    return views.job(said)
