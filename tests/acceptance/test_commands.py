"""Looking at renders, cancelling them, trying them again: for people as text, for programs as JSON."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import worker
from tests.acceptance.command import Home
from tests.servers import eventually

SLOW = ("render", "--model", "slow", "a red star", "--no-wait", "--json")


@pytest.fixture(scope="module")
def render(served: Home) -> Any:
    """A finished render of three pictures, as `farm render --json` told it."""
    return served.farm(
        "render", "a red star", "--model", "simulated", "-n", "3", "--seed", "5", "--owner", "ann", "--json"
    ).json


def test_the_status_of_a_render_is_told(served: Home, render: Any) -> None:
    first, second, third = served.farm("status", render["id"]).out.splitlines()

    assert first == f"render {render['id']} of ann: done"
    assert second == "3 done, 0 failed, 0 cancelled, 0 to go, of 3"
    assert re.fullmatch(r"submitted \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, priority normal, took [\d.]+ s", third)
    told = served.farm("status", render["id"], "--json").json
    assert told == {name: value for name, value in render.items() if name != "jobs"}
    assert told["created_at"] < told["finished_at"]


def test_pictures_are_fetched_by_names_of_ones_own_and_once(served: Home, render: Any, tmp_path: Path) -> None:
    command = ("fetch", render["id"], "--out", str(tmp_path), "--name", "{model}/{prompt:5}-{seed}")

    assert served.farm(*command).out == f"3 pictures of render {render['id']} in {tmp_path}\n"
    names = [file.name for file in (tmp_path / "simulated").iterdir()]
    assert sorted(names) == [f"a red-{seed}.png" for seed in (5, 6, 7)]
    assert served.farm(*command, "--json").json == {
        "render": render["id"],
        "out": str(tmp_path),
        "pictures": 3,
        "downloaded": 0,
    }
    assert "(3 pictures there already)" in served.farm(*command).out
    served.farm("fetch", render["id"], "--out", str(tmp_path), "--name", "../{seed}", code=2).complains("stay inside")
    assert "--out DIR; give a folder" in served.farm("watch", render["id"], "--name", "{seed}", code=2).err


def test_a_render_is_watched_to_its_end_by_two(served: Home, tmp_path: Path) -> None:
    left = served.farm(*SLOW, "-n", "2").json["id"]
    served.farm("hold", left)
    with served.started("watch", left, "--out", str(tmp_path)) as watcher:
        watcher.says(f"render {left} is held; `farm release {left}` resumes it")
        served.farm("release", left)
        told = served.farm("watch", left, "--out", str(tmp_path / "other"), "--json").json
        watched = watcher.ends()
    assert watched.code == 0
    assert watched.out.startswith(f"render {left} is done: 2 pictures")
    assert [Path(job["file"]).parent for job in told["jobs"]] == [tmp_path / "other"] * 2
    assert len([*tmp_path.glob("*.png")]) == 2
    again = served.farm("watch", left)
    assert again.out.startswith(f"render {left} is done: 2 pictures, in ")


def test_a_render_is_deleted_with_its_pictures_or_one_of_them(served: Home) -> None:
    made = served.farm("render", "a red star", "--model", "simulated", "-n", "2", "--json").json
    one = made["jobs"][0]

    refused = served.farm("delete", made["id"], code=2)
    assert "nobody can be asked; add --yes to delete render" in refused.err
    assert served.farm("cancel", one["id"]).out == f"job {one['id']} is already done\n"
    told = served.farm("delete", one["id"], "--yes", "--json").json
    assert told == {"id": one["id"], "deleted": True, "pictures": 1, "bytes": one["bytes"], "cancelled": 0}
    assert served.farm("status", made["id"], "--json").json["total"] == 1
    gone = served.farm("delete", made["id"], "--yes").out

    assert gone.startswith(f"deleted render {made['id']}: 1 picture, ")
    served.farm("delete", made["id"], "--yes", code=2).complains("no render")
    served.farm("fetch", made["id"], "--out", "pictures", code=2).complains("no render")


def test_the_latest_renders_are_listed_newest_first(served: Home, render: Any) -> None:
    later = served.farm("render", "b", "--model", "simulated", "--priority", "bulk", "--json").json

    heading, *lines = served.farm("status").out.splitlines()
    assert heading.split()[:3] == ["RENDER", "STATE", "DONE"]
    assert lines[0].split()[:7] == [later["id"], "done", "1", "0", "0", "1", later["owner"]]
    assert " bulk " in lines[0]
    told = served.farm("status", "--json").json
    ids = [one["id"] for one in told]
    assert ids[0] == later["id"]
    assert ids.index(render["id"]) > 0
    submitted = [one["created_at"] for one in told]
    assert submitted == sorted(submitted, reverse=True)


def test_the_jobs_of_a_render_are_listed(served: Home, render: Any) -> None:
    heading, *lines = served.farm("jobs", render["id"]).out.splitlines()

    assert heading.split()[:6] == ["JOB", "STATE", "SEED", "SIZE", "ATTEMPT", "WORKER"]
    assert heading.split()[6:] == ["PROMPT", "FAULT", "ERROR", "REMARKS", "PIXELS"]
    assert [line.split()[:5] for line in lines] == [
        [f"{render['id']}-{index:06d}", "done", str(5 + index), "64×64", "1"] for index in range(3)
    ]
    told = served.farm("jobs", render["id"], "--json").json
    assert told == [{name: value for name, value in job.items() if name != "file"} for job in render["jobs"]]
    assert served.farm("jobs", render["id"], "--state", "failed", "--json").json == []


def test_a_long_prompt_does_not_break_the_table(served: Home) -> None:
    accepted = served.farm("render", "red star " * 500, "--model", "simulated", "--json").json
    assert len(served.farm("jobs", accepted["id"]).out.splitlines()) == 2


def test_a_contact_sheet_of_a_render_is_written(served: Home, render: Any) -> None:
    told = served.farm("sheet", render["id"], "--out", "sheet.png", "--json")

    assert told.json == {
        "render": render["id"],
        "file": "sheet.png",
        "pictures": 3,
        "duplicates": 0,
        "nearly_black": 0,
    }
    assert "contact sheet sheet.png: 3 pictures" in told.err
    with Image.open(served.folder / "sheet.png") as sheet:
        assert sheet.width > 3 * 3 * 64


def test_a_render_without_pictures_has_no_contact_sheet(home: Home) -> None:
    accepted = home.farm("render", "--model", "simulated", "a red star", "--no-wait").out.strip()

    assert (
        f"render {accepted} is waiting and has no finished pictures yet"
        in home.farm("sheet", accepted, code=2).complaint
    )
    home.farm("fetch", accepted, "--out", "x", code=2).complains(f"{accepted} is waiting and has no finished pictures")


def test_a_control_without_effect_is_remarked_on(home: Home) -> None:
    accepted = home.farm("render", "a", "b", "--negative", "blue", "--guidance", "1", "--steps", "2", "--no-wait")

    assert "ignores it at a guidance_scale of 1 (2 pictures)" in accepted.err


def test_the_registered_models_and_who_serves_them_are_listed(served: Home) -> None:
    heading, *lines = served.farm("models").out.splitlines()

    assert heading.split()[0] == "MODEL"
    assert [line.split()[0] for line in lines] == ["shapes", "shapes-silhouette", "simulated", "slow", "late"]
    assert lines[0].startswith("shapes (default)")
    told = {model["alias"]: model for model in served.farm("models", "--json").json}
    assert told["shapes"].items() >= {"kind": "diffusers", "source": "shipped:shapes", "default": True}.items()
    assert told["simulated"]["workers"] >= 1


def test_the_workers_are_listed(served: Home, render: Any) -> None:
    assert render["done"] == 3
    eventually(lambda: len(served.farm("workers", "--json").json) == 2, "both workers are up")

    heading, *lines = served.farm("workers").out.splitlines()
    assert heading.split()[:3] == ["WORKER", "STATE", "DEVICE"]
    assert [line.split("@")[0] for line in lines] == ["cpu-0", "simulated-0"]
    told = served.farm("workers", "--json").json
    assert told[1]["models"] == ["simulated", "slow"]
    assert not any(worker["silent"] for worker in told)


def test_the_workers_tell_how_many_pictures_a_call_has_and_why(served: Home, render: Any) -> None:
    assert render["done"] == 3

    def limits() -> list[str]:
        told = served.farm("workers", "--json").json
        return [f"{worker['batch_limit']}, {worker['limit_reason']}" for worker in told if worker["batch_limit"]]

    eventually(limits, "whoever rendered has told")
    assert all(re.fullmatch(r"2, registry|\d+, (default|trial|learned)", limit) for limit in limits())
    eventually(lambda: all(limit in served.farm("workers").out for limit in limits()), "the table tells it, too")


def test_what_went_wrong_is_told_by_class_and_job_by_job(served: Home) -> None:
    failed = served.farm("render", "a black hole", "b", "--model", "simulated", "--json", code=1).json
    [bad, good] = failed["jobs"]
    assert (bad["state"], bad["fault"], bad["attempt"], bad["error"]) == (
        *("failed", "bad picture", 1),
        "simulated: the picture is not finite",
    )
    assert (good["state"], good["fault"]) == ("done", None)
    assert "bad picture" in served.farm("jobs", failed["id"]).out

    by_class, singly = served.farm("faults").out.split("\n\n")
    assert by_class.splitlines()[0].split() == ["FAULT", "MODEL", "WORKER", "TIMES", "JOBS", "LAST"]
    assert re.search(r"^bad picture +simulated +[\w-]+@\S+ +1 +1 ", by_class, re.MULTILINE)
    assert re.search(rf" bad picture +{bad['id']} +1 ", singly)
    told = served.farm("faults", "--model", "simulated", "--json").json
    assert (told["latest"][0]["job"], told["counts"][0]["jobs"]) == (bad["id"], 1)
    assert served.farm("faults", "--worker", "nobody-here").out == "no faults in this time span\n"
    assert "such as 90m, 24h or 7d" in served.farm("faults", "--since", "yesterday", code=2).err
    last = [worker["last_fault"] for worker in served.farm("workers", "--json").json]
    assert "bad picture" in {fault["fault"] for fault in last if fault is not None}


def test_a_worker_is_released_by_name(served: Home) -> None:
    name = served.farm("workers", "--json").json[0]["name"]
    assert served.farm("workers", "release", name).out == f"{name} is not quarantined\n"
    assert served.farm("workers", "release", name, "--json").json == {"worker": name, "released": 0}
    assert re.search(f"workers: .*{name}", served.farm("workers", "release", "nobody", code=2).complaint)


def test_a_cancelled_render_stops_keeps_what_is_done_and_stays_cancelled(served: Home) -> None:
    render_id = served.farm(*SLOW, "-n", "60").json["id"]
    eventually(lambda: served.farm("status", render_id, "--json").json["done"] > 0, "some are done")

    cancelled = served.farm("cancel", render_id, "--json").json
    again = served.farm("cancel", render_id)

    after = served.farm("status", render_id, "--json").json
    assert cancelled == {"id": render_id, "state": "cancelled", "cancelled": after["cancelled"]}
    assert after["done"] > 0
    assert after["cancelled"] > 0
    assert after["done"] + after["cancelled"] == after["total"] == 60
    assert again.out == f"render {render_id} is already cancelled; nothing to cancel\n"
    assert served.farm("cancel", render_id, "--json").json["cancelled"] == 0
    states = [job["state"] for job in served.farm("jobs", render_id, "--json").json]
    assert (states.count("done"), states.count("cancelled")) == (after["done"], after["cancelled"])
    assert served.farm("rerender", f"{render_id}-000059", code=2).complaint.startswith(f"job {render_id}-000059 is")


def test_cancelling_tells_how_many_jobs_it_dropped(served: Home) -> None:
    render_id = served.farm(*SLOW, "-n", "40").json["id"]
    said = served.farm("cancel", render_id).out
    assert re.fullmatch(rf"cancelled \d+ jobs of render {render_id}; \d+ pictures? done\n", said)


def test_jobs_that_failed_are_told_and_rendered_again_with_their_seeds(served: Home) -> None:
    served.farm("render", "a red star", "--model", "late", code=2).complains("late needs .*late, which is not there")
    (served.folder / "late").mkdir()
    failed = served.farm("render", "a red star", "--model", "late", "--json", code=1).json
    [job] = failed["jobs"]
    assert (failed["state"], failed["failed"], job["state"]) == ("failed", 1, "failed")
    assert "late" in job["error"]
    assert f"failed: {job['id']}: " in served.farm("status", failed["id"]).out

    shutil.copytree(Path(worker.__file__).parent / "models" / "shapes", served.folder / "late", dirs_exist_ok=True)
    retried = served.farm("retry", failed["id"], "--out", "retried", "--json").json

    assert (retried["id"], retried["state"], retried["done"], retried["failed"]) == (failed["id"], "done", 1, 0)
    assert retried["jobs"][0]["seed"] == job["seed"]
    assert retried["jobs"][0]["error"] is None
    assert (served.folder / retried["jobs"][0]["file"]).exists()


def test_a_retry_without_failed_jobs_says_so_and_changes_nothing(served: Home, render: Any) -> None:
    ended = served.farm("retry", render["id"])

    assert ended.err == f"render {render['id']} has no failed jobs\n"
    assert served.farm("jobs", render["id"], "--json").json == [
        {name: value for name, value in job.items() if name != "file"} for job in render["jobs"]
    ]


def test_the_database_is_upgraded_once(home: Home) -> None:
    first, second = home.farm("db", "upgrade"), home.farm("db", "upgrade")

    assert re.fullmatch(r"sqlite:///\S+ upgraded from nothing to (\d+)\n", first.out)
    assert "already" in second.out
    told = home.farm("db", "upgrade", "--json").json
    assert told["before"] == told["after"]


def test_a_fresh_home_says_what_to_do_first(home: Home) -> None:
    assert home.farm("status").out.startswith("no renders yet; try: farm render ")
    assert home.farm("status", "--json").json == []
    assert "farm up" in home.farm("workers").out
    assert home.farm("workers", "--json").json == []
    assert [model["workers"] for model in home.farm("models", "--json").json] == [0, 0, 0]


def test_the_installed_command_knows_its_version_and_every_command_has_help() -> None:
    farm = str(Path(sys.executable).with_name("farm"))

    def said(*arguments: str) -> str:
        return subprocess.run([farm, *arguments], capture_output=True, text=True, timeout=300, check=True).stdout

    assert re.search(r"\d+\.\d+\.\d+", said("--version"))
    listing = said("--help")
    for command in ("render", "status", "jobs", "cancel", "retry", "recipe", "rerender", "models", "workers", "doctor"):
        assert re.search(rf"^  {command} ", listing, re.MULTILINE)


def test_a_reader_that_goes_away_is_no_error(served: Home, render: Any) -> None:
    command = f"{sys.executable} -m scheduler.cli.main jobs {render['id']} --json | true"
    shell = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=served.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert shell.stderr == ""


def test_quiet_commands_print_results_alone(home: Home, served: Home, render: Any, tmp_path: Path) -> None:
    quiet = served.farm("render", "a", "--model", "simulated", "--quiet")
    assert quiet.err == ""
    assert re.fullmatch(r"render \w+ is done: 1 picture \(.*/s\) in .*, in .*\n", quiet.out)
    assert served.farm("fetch", render["id"], "--out", str(tmp_path), "-q").err == ""
    assert home.farm("render", "a", "--model", "simulated", "--no-wait", "-q").err == ""
    assert home.farm("jobs", "nothing", "-q", code=2).complaint.startswith("no render")
    assert served.farm("models", "show", "shapes", "--quiet").err == ""
    assert "sizes     multiples of 8; made for 512 × 512" in served.farm("models", "show", "shapes").out
    assert served.farm("models", "show", "shapes", "--json").json["profile"]["negative"] == "text"
    # What will not be done is said all the same.
    ignored = home.farm("render", "a", "--negative", "blue", "--guidance", "1", "--steps", "2", "--no-wait", "--quiet")
    assert ignored.err.count("\n") == 1
    assert "ignores it at a guidance_scale of 1" in ignored.err
