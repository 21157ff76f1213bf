"""`farm schedule`, as a person uses it, and a running farm that fires."""

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from tests.acceptance.command import Home
from tests.servers import eventually


def test_a_running_farm_fires_what_is_due_and_renders_it(served: Home) -> None:
    added = served.farm(
        *("schedule", "add", "stars", "--cron", "0 2 * * *", "--timezone", "Europe/Paris", "--catch-up", "last"),
        *("a star", "-n", "2", "--model", "simulated", "--owner", "ann", "--json"),
    ).json
    assert (added["pictures"], added["paused"], added["seeds"]) == (2, False, "fresh")

    # As if everything had been down since the day before yesterday.
    with closing(sqlite3.connect(served.path / "farm.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE schedules SET decided_to = decided_to - 2 * 86400 WHERE name = 'stars'")

    def fired() -> str | None:
        history = served.farm("schedule", "history", "stars", "--owner", "ann", "--json").json
        return next((firing["render_id"] for firing in history if firing["outcome"] == "fired"), None)

    render_id = str(eventually(fired, "the schedule has fired"))
    served.wait_until_done(render_id)
    told = served.farm("schedule", "history", "stars", "--owner", "ann").out
    assert "02:00" in told
    assert render_id in told
    served.farm("schedule", "remove", "stars", "--owner", "ann")


def test_a_schedule_is_listed_paused_resumed_fired_and_removed(served: Home) -> None:
    prompts = served.file("nightly.jsonl", '{"prompt": "a star", "topic": "stars"}\n{"prompt": "a circle"}\n')
    said = served.farm(
        *(
            "schedule",
            "add",
            "nightly",
            "--cron",
            "@daily",
            "--prompts",
            prompts,
            "--model",
            "simulated",
            "--seed",
            "7",
        ),
        *("--overlap", "queue", "--owner", "bob"),
    )
    assert "2 pictures each time, next " in said.out
    assert "nightly" in served.farm("schedule", "list", "--owner", "bob").out

    assert "paused" in served.farm("schedule", "pause", "nightly", "--owner", "bob").out
    fired = [
        served.farm("schedule", "run-now", "nightly", "--owner", "bob", "--json").json["render_id"] for _ in range(2)
    ]
    for render_id in fired:
        served.wait_until_done(render_id)
    assert "next 2" in served.farm("schedule", "resume", "nightly", "--owner", "bob").out
    seeds = [[job["seed"] for job in served.farm("jobs", render_id, "--json").json] for render_id in fired]
    assert seeds == [[7, 8], [7, 8]]
    assert "removed" in served.farm("schedule", "remove", "nightly", "--owner", "bob").out
    assert "no schedules yet" in served.farm("schedule", "list", "--owner", "bob").out


def test_removing_a_schedule_names_the_renders_that_wait_for_its_window(served: Home) -> None:
    hour = (datetime.now(UTC).hour + 12) % 24
    served.farm(
        *("schedule", "add", "later", "--cron", "@yearly", "--window", f"{hour:02}:00-{hour:02}:30", "--owner", "bob"),
        *("a star", "--model", "simulated"),
    )
    render_id = served.farm("schedule", "run-now", "later", "--owner", "bob", "--json").json["render_id"]
    removed = served.farm("schedule", "remove", "later", "--owner", "bob")
    assert f"resume it with `farm release {render_id}`" in removed.err
    served.farm("release", render_id)
    served.wait_until_done(render_id)


def test_a_schedule_that_fires_once_says_when_and_in_whose_zone(served: Home) -> None:
    asked = ("schedule", "add", "once", "--at", "2036-10-26 02:30", "a star", "--model", "simulated", "--owner", "bob")
    said = served.farm(*asked, settings={"TZ": "Europe/Paris"})
    assert said.out == (
        "schedule once: 1 picture once, 2036-10-26 02:30 CEST (Europe/Paris, this machine's time zone)\n"
    )
    assert "comes twice in Europe/Paris that day, and the first is meant (CEST)" in said.err
    assert " once " in served.farm("schedule", "list", "--owner", "bob").out
    served.farm("schedule", "remove", "once", "--owner", "bob")


def test_a_render_that_is_held_until_a_time_says_so(served: Home) -> None:
    times = ("--not-before", "2036-12-01 07:00", "--window", "01:00-05:00")
    said = served.farm("render", "a star", "--model", "simulated", "--no-wait", *times, settings={"TZ": "Asia/Tokyo"})
    assert "times are in Asia/Tokyo, this machine's time zone" in said.err
    assert "the render is held until 2036-12-02 01:00 JST" in said.err
    render_id = said.out.strip()
    status = served.farm("status", render_id).out
    assert "rendered not before 2036-12-01 07:00 JST, only within 01:00-05:00 (Asia/Tokyo)" in status
    assert "waits: held until 2036-12-02 01:00 JST" in status
    served.farm("cancel", render_id)
    served.farm("render", "a star", "--timezone", "UTC", code=2).complains("neither is given")
    served.farm("render", "a star", "--not-before", "2036-02-30 02:00", code=2).complains(
        "not_before: .* is not a time that there is"
    )


def test_a_schedule_is_shown_edited_and_on_the_agenda(served: Home) -> None:
    prompts = served.file("anew.txt", "a star\na circle\n")
    zone, bob = ("--timezone", "Europe/Paris"), ("--owner", "bob")
    limits = ("--max-pictures", "5", "--max-device-minutes-per-day", "2.5")
    served.farm(
        *("schedule", "add", "shown", "--cron", "0 2 * * *", *zone, "--prompts-at-firing", "anew.txt", *limits, *bob),
        *("--model", "simulated"),
    )
    shown = served.farm("schedule", "show", "shown", *bob)
    assert "schedule shown of bob: 0 2 * * * (Europe/Paris)" in shown.out
    assert "limits: 5 pictures each time, 2.5 device minutes a day" in shown.out
    assert f"prompts: read at each firing from {served.folder / 'anew.txt'}" in shown.out
    assert "order: 2 pictures with simulated, " in shown.out
    assert len(served.farm("schedule", "show", "shown", *bob, "--json").json["next_times"]) == 5

    said = served.farm(
        *("schedule", "edit", "shown", "a square", "-n", "3", "--cron", "30 7 * * *", "--window", "01:00-06:00", *bob),
        *("--priority", "bulk", "--no-limits"),
    )
    assert said.out.startswith("schedule shown: 3 pictures each time, next ")
    assert "cron: no time lies within the window 01:00-06:00; the pictures wait for it" in said.err
    form = served.farm("schedule", "show", "shown", *bob, "--json").json
    assert (form["order"]["prompts"], form["order"]["models"]) == (["a square"], ["simulated"])
    assert (form["prompts_at_firing"], form["priority"], form["limits"]["pictures"]) == (None, "bulk", None)

    agenda = served.farm("agenda", *bob).out
    assert agenda.count("schedule shown") in (1, 2)
    assert served.farm("agenda", "--days", "3", *bob, "--json").json["entries"][0]["pictures"] == 3
    assert prompts
    served.farm("schedule", "remove", "shown", *bob)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("edit", "same"), "nothing to change"),
        (("edit", "same", "--cron", "0 25 * * *"), "cron: '0 25 .*bad hour"),
        (("edit", "same", "--at", "2026-01-01 02:00"), "is past; it is"),
        (("edit", "same", "--model", "nope"), "no model named 'nope'"),
        (("edit", "same", "--window", "01:00-02:00", "--no-window"), "exclude each other"),
        (("edit", "same", "--prompts-at-firing", "gone.txt"), "gone.txt: No such file or directory"),
        (("edit", "a/b", "--cron", "@daily"), "no schedule named 'a/b'"),
        (("add", "a/b", "--cron", "@daily", "a star"), "name: expected up to 100 letters"),
        (("add", "new", "--cron", "@daily", "--prompts-at-firing", "-"), "standard input can be read once only"),
        (("add", "new", "--cron", "@daily", "a", "--prompts-at-firing", "x.txt"), "says all prompts; drop the others"),
    ],
)
def test_what_cannot_be_meant_leaves_schedules_alone(served: Home, arguments: tuple[str, ...], says: str) -> None:
    if served.farm("schedule", "show", "same", code=None).code:
        served.farm("schedule", "add", "same", "--cron", "@yearly", "a star", "--model", "simulated")
    before = served.farm("schedule", "show", "same", "--json").json
    refused = served.farm("schedule", *arguments, code=2)
    assert re.search(says, refused.err), refused.err
    assert "Traceback" not in refused.err
    assert served.farm("schedule", "show", "same", "--json").json == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--cron", "0 25 * * *", "a star"), "cron: '0 25 .*bad hour"),
        (("--cron", "0 0 31 4 *", "a star"), "cron: .*(never fires|is not a cron expression)"),
        (("--cron", "@daily", "--timezone", "Mars/Base", "a star"), "timezone: 'Mars/Base' is not a time zone"),
        (("--cron", "@daily", "--window", "1-6", "a star"), "window: '1-6'"),
        (("--at", "2026-01-01 02:00", "a star"), "at: 2026-01-01 02:00 UTC is past; it is .* UTC now"),
        (
            ("--at", "2030-03-31 02:30", "--timezone", "Europe/Paris", "a star"),
            "2030-03-31 02:30 does not exist in Europe/Paris",
        ),
        (("--at", "tomorrow", "a star"), "at: 'tomorrow' is not a time; expected one such as 2026-12-01 02:00"),
        (("--at", "2030-01-01 02:00", "--cron", "@daily", "a star"), "either cron or at .* both were given"),
        (("a star",), "either cron or at says when to fire, and neither was given"),
        (("--cron", "@daily", "--max-device-minutes", "nan", "a star"), "device_minutes: nan is not a limit"),
        (("--cron", "@daily", "--prompts", "bad.jsonl"), "bad.jsonl line 2: prompt: missing"),
        (("--cron", "@daily", "a star", "--model", "nope"), "no model named 'nope'"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(served: Home, arguments: tuple[str, ...], says: str) -> None:
    served.file("bad.jsonl", '{"prompt": "a"}\n{}\n')
    served.farm("schedule", "add", "wrong", *arguments, code=2).complains(says)
    served.farm("schedule", "history", "wrong", code=2).complains("no schedule named 'wrong'")
