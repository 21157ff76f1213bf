"""Previews from a worker's process to whoever watches, over each pair of stores: both know nothing of them."""

from storage.broker.previews import Preview, open_previews
from tests.integration.farm import Farm
from tests.servers import eventually


def test_a_worker_shows_what_somebody_watches_and_nothing_else_and_leaves_nothing_in_the_store(farm: Farm) -> None:
    previews = open_previews(farm.settings)
    farm.workers()
    unseen = farm.submit(2, model="slow")
    farm.some_done(unseen, 2)
    assert previews.get([f"{unseen}-000000", f"{unseen}-000001"]) == {}

    render = farm.submit(16, model="slow")

    def look() -> Preview | None:
        previews.watch([render])
        found = previews.get([f"{render}-{index:06d}" for index in range(16)])
        return next(iter(found.values()), None)

    seen = eventually(look, "a picture of the render is seen before it is done")
    assert isinstance(seen, Preview)
    assert (seen.why_none, seen.steps) == (None, 4)
    assert seen.image.startswith(b"RIFF")
    farm.finished(render)
    farm.assert_sound(render)
    assert all(name.startswith("renders/") and name.endswith(".png") for name in farm.services.objects.list(""))
