"""What a person gets wrong: one clear line that names the thing and the remedy, an exit code, nothing submitted."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from storage.database.connection import Database
from storage.settings import Settings
from tests.acceptance.command import Home
from tests.forks import Starter
from tests.servers import free_port

PASTED = "a very long story " * 120_000


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Home:
    """Shared by all mistakes: none of them may leave anything behind. It has tables, as a used farm."""
    home = Home(tmp_path_factory.mktemp("mistakes"), starter)
    home.farm("db", "upgrade")
    return home


@pytest.fixture
def untouched(shared_home: Home) -> Iterator[Home]:
    """A home in which nothing was submitted, neither before nor by the test."""
    yield shared_home
    assert shared_home.rows("SELECT id FROM renders") == []
    assert shared_home.rows("SELECT id FROM jobs") == []
    assert shared_home.processes() == []


# -- wrong usage and input: exit code 2 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nope"], "'nope'.*shapes, .*simulated"),
        (["--width", "100"], "width: .*multiple of 8.*96 or 104.*100"),
        (["--height", "0"], "height: .*8"),
        (["--width", "8192", "--height", "8192"], "8192×8192.*megapixels"),
        (["--steps", "0"], "steps: .*1.*given: 0"),
        (["--guidance", "nan"], "guidance.*finite.*nan"),
        (["--seed", "-1"], "seed: .*0.*-1"),
        (["--seed", str(2**64)], f"seed: .*{2**63 - 1}.*{2**64}"),
        (["-n", str(10**7), "--product", "steps=1,2", "--dry-run"], "more than 10,000,000 pictures in one render"),
        (["--seed", str(2**63 - 1), "-n", "2"], f"seed: {2**63}.*lower"),
        (["--sampler", "magic"], "sampler: .*Euler.*'magic'"),
        (["--owner", "a b"], "OWNER.*'a b'"),
        (["--prompts", "missing.txt"], "missing.txt: .*[Nn]o such file"),
        (["--prompts", "."], r"\.txt, \.jsonl, \.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named_with_what_would_be_right(untouched: Home, arguments: list[str], says: str) -> None:
    untouched.farm("render", "a red star", *arguments, code=2).complains(says)


@pytest.mark.parametrize(
    ("prompt", "says"), [("", "prompt: .*empty"), (" \t ", "prompt: .*empty"), ("x" * 20_000, "prompt: .*10000")]
)
def test_a_wrong_prompt_is_refused(untouched: Home, prompt: str, says: str) -> None:
    untouched.farm("render", prompt, code=2).complains(says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", "", "empty.txt: no prompt"),
        ("blank.txt", " \n\n\t\r\n", "blank.txt: no prompt"),
        ("pasted.txt", f"a red star\n{PASTED}\n", "pasted.txt line 2: prompt: .*10000"),
        (
            "latin.txt",
            "caf\xe9 at night".encode("latin-1"),
            "latin.txt line 1: not UTF-8 text .byte 0xe9 after 3 characters",
        ),
        ("nul.txt", "a red star\na\0b\n", "nul.txt line 2: not text .*NUL"),
        ("empty.jsonl", "", "empty.jsonl: no prompt"),
        ("broken.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', "broken.jsonl line 3: not JSON"),
        ("list.jsonl", '{"prompt": "a"}\n["b"]\n', "list.jsonl line 2: .*object"),
        ("text.jsonl", "a red star\n", "text.jsonl line 1: not JSON"),
        (
            "twice.jsonl",
            '{"prompt": "a", "custom_id": "x"}\n{"prompt": "b", "custom_id": "x"}\n',
            "twice.jsonl line 2: duplicate custom_id 'x'; twice.jsonl line 1 has it, too",
        ),
        ("id.jsonl", '{"prompt": "a", "custom_id": 3}\n', "line 1: custom_id: .*string"),
        ("half-id.jsonl", '{"prompt": "a", "custom_id": "\\ud800"}\n', "line 1: custom_id"),
        ("labels.jsonl", '{"prompt": "a", "labels": 3}\n', "line 1: labels"),
        (
            "both.jsonl",
            '{"prompt": "a", "labels": {"topic": 1}, "topic": 2}\n',
            "line 1: labels: topic is also a column",
        ),
        ("nan-label.jsonl", '{"prompt": "a", "score": NaN}\n', "line 1: labels: .*JSON"),
        ("half-label.jsonl", '{"prompt": "a", "topic": "\\ud800"}\n', "line 1: labels: "),
        ("huge-label.jsonl", f'{{"prompt": "a", "text": "{"x" * 30_000}"}}\n', "line 1: labels: .*20000 bytes"),
        ("mixed.jsonl", '{"prompt": "a"}\n{"prompt": "Käse"}\n'.encode("latin-1"), "line 2: not UTF-8 text .byte 0xe4"),
        ("utf-16.txt", "a red star\n".encode("utf-16")[:-1], "line 1: not UTF-16 text"),
        ("table.parquet", "PAR1", "table.parquet: not Parquet"),
        ("kind.jsonl", '{"prompt": "a", "seed": "3"}\n', "line 1: seed: .*integer.*'3'"),
        ("missing.jsonl", '{"seed": 3}\n', "line 1: prompt: missing"),
        ("nan.jsonl", '{"prompt": "a", "guidance": NaN}\n', "line 1: guidance: .*nan"),
        ("half.jsonl", '{"prompt": "\\ud800"}\n', "line 1: prompt: .*"),
        ("deep.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("digits.jsonl", f'{{"prompt": "a", "seed": {"1" * 5000}}}\n', "line 1: "),
        ("pasted.jsonl", f'{{"prompt": "{PASTED}"}}\n', "line 1: prompt: .*10000"),
        ("model.jsonl", '{"prompt": "a"}\n{"prompt": "b", "model": "nope"}\n', "(line|prompt) 2.*'nope'.*shapes"),
        ("huge.jsonl", '{"prompt": "a"}\n{"prompt": "b", "width": 8192, "height": 8192}\n', "(line|prompt) 2.*8192"),
        ("empty.csv", "", "empty.csv.*column named prompt"),
        ("header.csv", "prompt,seed\n", "header.csv: no prompt"),
        ("column.csv", "seed,width\n3,64\n", "column.csv.*column named prompt"),
        ("semicolons.csv", "prompt;seed\na;3\nb;3;4\n", "semicolons.csv line 3: expected 2 cells"),
        ("surplus.csv", "prompt,seed\na,3\na red star, large,4\n", "surplus.csv line 3: .*2 cells"),
        ("short.csv", "prompt,seed\na\n", "short.csv line 2: .*2 cells"),
        ("nameless.csv", "prompt,\na,red\n", "line 1: a column has no name"),
        ("seed.csv", "prompt,seed\na,three\n", "line 2: seed: .*integer.*'three'"),
        ("quote.csv", 'prompt\n"a red star\n', "quote.csv line .*not CSV"),
        ("pasted.csv", f"prompt\n{PASTED}\n", "pasted.csv line"),
        ("picture.png", b"\x89PNG", r"picture.png: .*\.txt, \.jsonl, \.csv"),
        ("no-suffix", "a red star\n", r"no-suffix: .*\.txt, \.jsonl, \.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) and re.fullmatch(r"[a-z0-9-]+(\.\w+)?", value) else "",
)
def test_a_wrong_prompt_file_is_refused_whole_with_the_place(
    untouched: Home, name: str, content: str | bytes, says: str
) -> None:
    untouched.farm("render", "--prompts", untouched.file(name, content), code=2).complains(says)


def test_a_folder_in_place_of_a_prompt_file_is_refused(untouched: Home) -> None:
    (untouched.folder / "folder.txt").mkdir()
    untouched.farm("render", "--prompts", "folder.txt", code=2).complains("folder.txt: .*directory")


@pytest.mark.parametrize("out", ["a-file", "a-file/below"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_rendered(untouched: Home, out: str) -> None:
    untouched.file("a-file", "in the way")
    untouched.farm("render", "a red star", "--out", out, code=2).complains(f"--out {out}: .*another folder")


def test_a_contact_sheet_that_cannot_be_written_is_refused_before_anything_is_rendered(untouched: Home) -> None:
    untouched.file("a-file", "in the way")
    ended = untouched.farm("render", "a red star", "--sheet", "a-file/sheet.png", code=2)
    ended.complains("--sheet .*a-file: .*another folder")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["render"], 'nothing to render: .*"a red star"'),
        (["render", "a", "--colour", "red"], "'?--colour"),
        (["render", "a", "--priority", "urgent"], "'urgent'.*'interactive'"),
        (["render", "a", "--width", "wide"], "--width.*'wide'"),
        (["render", "a", "-n", "0"], "'-n'.*0"),
        (["render", "a", "--sheet", "s.png", "--no-wait"], "--sheet.*farm sheet"),
        (["render", "a", "--out", "o", "--no-wait"], "--out.*farm fetch"),
        (["retry", "x", "--out", "o", "--no-wait"], "--out.*farm fetch"),
        (["render", "-"], "--prompts - reads prompts from standard input"),
        (["render", "a", "--once", " "], "--once needs a name"),
        (["jobs"], "RENDER"),
        (["jobs", "x", "--state", "lost"], "'lost'.*'queued'"),
        (["paint"], "'paint'"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_explained_with_the_way_to_the_help(untouched: Home, arguments: list[str], says: str) -> None:
    ended = untouched.farm(*arguments, code=2)
    *usage, complaint = ended.err.splitlines()
    assert re.search(f"^Error: .*{says}", complaint)
    assert any("--help" in line for line in usage)
    assert ended.out == ""


def test_a_file_is_no_prompt(untouched: Home) -> None:
    path = untouched.file("prompts.csv", "prompt\na\n")
    ended = untouched.farm("render", str(path), code=2)
    assert f"{path} is a file; --prompts {path} renders the prompts in it" in ended.err


@pytest.mark.parametrize("command", ["status", "jobs", "cancel", "retry"])
def test_a_render_that_does_not_exist_is_not_found(untouched: Home, command: str) -> None:
    untouched.farm(command, "k7m2p9x4tq8z", code=2).complains("'k7m2p9x4tq8z'.*farm list")


@pytest.mark.parametrize("command", ["recipe", "rerender"])
def test_a_job_that_does_not_exist_is_not_found(untouched: Home, command: str) -> None:
    untouched.farm(command, "k7m2p9x4tq8z-000012", code=2).complains("'k7m2p9x4tq8z-000012'.*farm jobs")
    untouched.farm(command, "k7m2p9x4tq8z", code=2).complains("'k7m2p9x4tq8z'.*such as .*-0000")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FARM_MAX_ATTEMPTS", "0", "FARM_MAX_ATTEMPTS='0'.*greater than 0"),
        ("FARM_LEASE_SECONDS", "5", "FARM_RENEW_SECONDS.*half of FARM_LEASE_SECONDS"),
        ("FARM_OWNER", "../root", "FARM_OWNER='../root'"),
        ("FARM_DEVICES", "gpu:1", "FARM_DEVICES.*'gpu:1'.*cuda:N"),
        ("FARM_SERVE", "nope", "FARM_SERVE.*'nope'|'nope'.*shapes"),
        ("FARM_HOME", "a-file", "FARM_HOME=a-file cannot be written"),
        ("FARM_HOME", "a-file/below", "FARM_HOME=a-file/below cannot be written"),
        ("FARM_MODELS_FILE", "missing.toml", "missing.toml.*[Nn]o such file"),
        ("FARM_MODELS_FILE", "syntax.toml", r"syntax.toml: .*line 1"),
        ("FARM_MODELS_FILE", "kind.toml", r"kind.toml: \[models.a\].*'magic'"),
        ("FARM_MODELS_FILE", "width.toml", r"width.toml: \[models.a\].*width: .*multiple of 8"),
        ("FARM_OBJECTS_URL", "gs://bucket", "FARM_OBJECTS_URL=gs://bucket: expected s3://"),
        ("FARM_OBJECTS_URL", "s3://", "FARM_OBJECTS_URL=s3://: expected s3://bucket"),
        ("FARM_S3_ENDPOINT_URL", "localhost:9000", "FARM_S3_ENDPOINT_URL=localhost:9000: expected http://"),
        ("FARM_BROKER_URL", "amqp://guest:hidden@rabbit", r"FARM_BROKER_URL=amqp://guest:\*\*\*@rabbit.*redis://"),
        ("FARM_BROKER_URL", "localhost:6379", "FARM_BROKER_URL=localhost:6379.*redis://"),
        ("FARM_BROKER_URL", "redis://:hid/den@redis:6379/0", r"FARM_BROKER_URL=redis://:\*\*\*@redis"),
    ],
)
def test_a_wrong_setting_is_named(untouched: Home, name: str, value: str, says: str) -> None:
    untouched.file("a-file", "in the way")
    untouched.file("syntax.toml", "[models.a\n")
    untouched.file("kind.toml", "[models.a]\nkind = 'magic'\n")
    untouched.file("width.toml", "[models.a]\nkind = 'simulated'\nwidth = 100\n")
    # An address of one kind makes it a farm elsewhere, which has addresses of the others.
    elsewhere = {"FARM_BROKER_URL": "redis://127.0.0.1:1/0", "FARM_OBJECTS_URL": "s3://bucket"} if "URL" in name else {}
    ended = untouched.farm("render", "a red star", code=2, settings=elsewhere | {name: value})
    ended.complains(says)
    assert "hid" not in ended.err


def test_a_misspelt_setting_is_told_by_every_command(home: Home) -> None:
    ended = home.farm("status", settings={"FARM_OWNR": "ann"})
    assert ended.err.splitlines()[0] == "FARM_OWNR is not a setting; did you mean FARM_OWNER?"


# -- services: exit code 3 -------------------------------------------------------------------------------------


@pytest.fixture
def addresses(redis_url: str, sqlite: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A farm elsewhere, in order; after the test still without a render."""
    yield {"FARM_DATABASE_URL": sqlite, "FARM_BROKER_URL": redis_url, "FARM_OBJECTS_URL": str(tmp_path / "objects")}
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT id FROM renders").fetchall() == []


def refused(home: Home, addresses: dict[str, str], **wrong: str) -> str:
    """The one line with which a render ends for want of a service."""
    ended = home.farm("render", "a red star", code=3, settings=addresses | wrong)
    assert "hidden" not in ended.err
    assert len(ended.complaint) < 400
    return ended.complaint


def test_a_refused_redis_password_is_told_and_not_shown(home: Home, addresses: dict[str, str]) -> None:
    address = re.sub(":[^:/]*@", ":hidden@", addresses["FARM_BROKER_URL"])
    assert re.search(
        r"redis://:\*\*\*@127.0.0.1:\d+/0: .*password.*FARM_BROKER_URL",
        refused(home, addresses, FARM_BROKER_URL=address),
    )


def test_a_redis_password_that_was_forgotten_is_told(home: Home, addresses: dict[str, str]) -> None:
    address = re.sub("://.*@", "://", addresses["FARM_BROKER_URL"])
    assert re.search("password.*FARM_BROKER_URL", refused(home, addresses, FARM_BROKER_URL=address))


def test_a_redis_that_is_away_is_told(home: Home, addresses: dict[str, str]) -> None:
    port = free_port()
    said = refused(home, addresses, FARM_BROKER_URL=f"redis://:hidden@127.0.0.1:{port}/0")
    assert re.search(rf"broker redis://:\*\*\*@127.0.0.1:{port}/0: .*[Rr]efused.*FARM_BROKER_URL", said)


def test_a_postgresql_that_is_away_is_told(home: Home, addresses: dict[str, str]) -> None:
    port = free_port()
    said = refused(home, addresses, FARM_DATABASE_URL=f"postgresql://farm:hidden@127.0.0.1:{port}/farm")
    assert re.search(
        rf"database postgresql.*://farm:\*\*\*@127.0.0.1:{port}/farm: .*[Rr]efused.*FARM_DATABASE_URL", said
    )


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://farm:hidden@db:many/farm",
        "farm",
        "mysql://farm:hidden@db/farm",
        "sqlite:////no/such/folder/farm.db",
    ],
    ids=["port", "word", "driver", "folder"],
)
def test_a_database_that_cannot_be_addressed_is_told(home: Home, addresses: dict[str, str], address: str) -> None:
    said = refused(home, addresses, FARM_DATABASE_URL=address)
    assert said.startswith("database ")
    assert ("expected postgresql://" in said) == (not address.startswith(("postgresql:", "sqlite:")))


def test_a_database_without_tables_is_told_with_the_command_that_makes_them(
    home: Home, addresses: dict[str, str], empty_postgres: str
) -> None:
    assert re.search("no tables.*farm db upgrade", refused(home, addresses, FARM_DATABASE_URL=empty_postgres))
    home.farm("db", "upgrade", settings={"FARM_DATABASE_URL": empty_postgres})
    assert home.farm("status", settings={"FARM_DATABASE_URL": empty_postgres}).out.startswith("no renders yet")


def test_a_database_of_a_newer_farm_is_left_alone(home: Home, addresses: dict[str, str], postgres: str) -> None:
    database = Database(postgres)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    for command in (["render", "a red star"], ["db", "upgrade"], ["status"]):
        ended = home.farm(*command, code=3, settings=addresses | {"FARM_DATABASE_URL": postgres})
        assert re.search("version from the future.*newer farm", ended.complaint)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM renders")).scalar_one() == 0
    database.close()


def test_an_embedded_database_of_a_newer_farm_is_left_alone(home: Home) -> None:
    home.farm("db", "upgrade")
    with closing(sqlite3.connect(home.path / "farm.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from the future'")
    assert re.search("version from the future.*newer farm", home.farm("render", "a red star", code=3).complaint)
    assert home.rows("SELECT id FROM renders") == []


@pytest.fixture
def bucket(addresses: dict[str, str], s3_with_signatures: Settings) -> dict[str, str]:
    """As `addresses`, with objects in a bucket of a store that checks keys."""
    return addresses | {
        "FARM_OBJECTS_URL": s3_with_signatures.objects,
        "FARM_S3_ENDPOINT_URL": str(s3_with_signatures.s3_endpoint_url),
    }


def test_a_bucket_that_is_missing_is_told(home: Home, bucket: dict[str, str]) -> None:
    said = refused(home, bucket, FARM_OBJECTS_URL="s3://no-such-bucket")
    assert re.search("s3://no-such-bucket.*does not exist.*create it or correct FARM_OBJECTS_URL", said)


@pytest.mark.parametrize("key", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_bucket_that_is_forbidden_is_told(home: Home, bucket: dict[str, str], key: str) -> None:
    said = refused(home, bucket, **{key: "hidden"})
    assert re.search("s3://.*access is denied.*check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY", said)


def test_keys_that_are_missing_are_told(home: Home, bucket: dict[str, str]) -> None:
    said = refused(home, bucket, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert re.search("s3://.*credentials", said)


def test_a_store_that_is_away_is_told(home: Home, bucket: dict[str, str]) -> None:
    said = refused(home, bucket, FARM_S3_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    assert re.search("objects in s3://.*connect", said)


@pytest.mark.parametrize(
    ("name", "value"),
    [("FARM_OBJECTS_URL", "s3://not_a_bucket!"), ("AWS_PROFILE", "nobody"), ("AWS_DEFAULT_REGION", "not a region")],
)
def test_a_store_that_cannot_be_addressed_is_told(home: Home, bucket: dict[str, str], name: str, value: str) -> None:
    said = refused(home, bucket, **{name: value})
    assert re.search(f"objects in .*{value}", said)


# -- what is right, though it may look odd ---------------------------------------------------------------------

PROMPTS = ["a red star ⭐ und Öl", "كلب أحمر تحت المطر", "赤い星, 大きい"]
WRITTEN = {
    "txt": "".join(f"{prompt}\n" for prompt in PROMPTS),
    "jsonl": "".join(f'{{"prompt": "{prompt}"}}\n' for prompt in PROMPTS),
    "csv": "prompt\n" + "".join(f'"{prompt}"\n' for prompt in PROMPTS),
}


@pytest.fixture(scope="module")
def accepting(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Home:
    """A home where renders are accepted and left waiting."""
    return Home(tmp_path_factory.mktemp("accepting"), starter)


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda text: text, id="plain"),
        pytest.param(lambda text: "\ufeff" + text, id="byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: text.removesuffix("\n"), id="no last newline"),
        pytest.param(lambda text: text.replace("\n", "\n\n") + "\n\n", id="blank lines"),
        pytest.param(lambda text: ("\ufeff" + text).replace("\n", "\r\n").removesuffix("\r\n"), id="all at once"),
    ],
)
def test_prompts_are_kept_to_the_letter_however_their_file_is_written(
    accepting: Home, kind: str, written: Callable[[str], str]
) -> None:
    name = accepting.file(f"prompts.{kind}", written(WRITTEN[kind]))
    accepted = accepting.farm("render", "--prompts", name, "--no-wait", "--json").json
    jobs = accepting.farm("jobs", accepted["id"], "--json").json
    assert [job["prompt"] for job in jobs] == PROMPTS
