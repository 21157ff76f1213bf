"""What strangers send is bounded by what it unpacks to: in memory, and in the work that it makes.

Each trap is read in a process of its own, which says how much memory that took; where work is what is bounded, the
process may use so many seconds of a processor and no more.
"""

import gc
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from scheduler.intake import grid
from scheduler.intake.admission import Submitter
from scheduler.intake.files.columns import Row, request_of
from scheduler.intake.files.json_text import read_json
from scheduler.intake.files.yaml_values import parse_yaml
from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.order import Order
from scheduler.intake.remarks import LabelRemarks
from scheduler.intake.requests import MOST_PICTURES, BadRows, SourcedRequest
from scheduler.intake.uploads import StoredInputs, check_embeddings
from storage.access.uploads import Uploads
from storage.database.connection import Database
from storage.errors import BadSpecification
from storage.objects.folder import LocalObjects
from storage.spec.picture import Request

pytestmark = pytest.mark.slow

#: Run before each trap: what says how much memory the process and its children have had, in MiB.
_BEFORE = """
import re, resource, sys
from pathlib import Path
from scheduler.intake.manifests import manifest, read_manifest
from scheduler.intake.templates import Templates
from scheduler.intake.files.json_text import read_json
from storage.errors import InvalidInput

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # more exact: the other figure begins with what the parent process had
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20

before = peak()
try:
"""
_AFTER = """
    print("read")
except (InvalidInput, ValueError) as error:
    print(str(error)[:500])
print(peak() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
#: Of a processor: a hundred times what any of them takes.
_SECONDS = 60


def trapped(code: str, *arguments: object) -> tuple[str, int, int]:
    """What reading a trap says, and by how many MiB the process grew; how many a child of it had."""
    done = subprocess.run(
        [sys.executable, "-c", f"{_BEFORE}    {code}{_AFTER}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS)),
    )
    assert done.returncode == 0, done.stderr
    *said, figures = done.stdout.splitlines()
    grown, of_child = map(int, figures.split())
    return "\n".join(said), grown, of_child


READ = "list(read_manifest(manifest(Path(sys.argv[1]))))"


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(lambda: {"prompt": ["a" * 120_000_000]}, id="one long cell"),
        pytest.param(lambda: {"prompt": ["a" * 500_000] * 1000}, id="one cell in every row"),
        pytest.param(
            lambda: {
                "prompt": ["a"],
                "tags": pyarrow.ListArray.from_arrays([0, 20_000_000], pyarrow.repeat(0, 20_000_000)),
            },
            id="one long list",
        ),
    ],
)
def test_a_parquet_of_ten_kilobytes_takes_no_more_memory_than_a_prompt_file(tmp_path: Path, columns: object) -> None:
    path = tmp_path / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns()), path, compression="zstd")  # type: ignore[operator]
    assert path.stat().st_size < 20_000

    said, grown, of_child = trapped(READ, path)

    assert "takes more than 256 MiB when it is unpacked" in said or "longer than 4,000,000 characters" in said
    assert grown < 60
    assert of_child < 400


def test_a_parquet_of_more_rows_than_pictures_of_a_render_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.repeat("a", MOST_PICTURES + 1)}), path)
    with pytest.raises(BadSpecification, match="10,000,001 rows; the most pictures of a render are 10,000,000"):
        next(iter(read_manifest(manifest(path))))


def test_a_child_that_unpacks_ends_with_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"] * 100_000}), path)
    rows = read_manifest(manifest(path))
    assert next(rows).request.prompt == "a"
    assert str(path) in [word for child in psutil.Process().children() for word in child.cmdline()]
    rows.close()  # type: ignore[attr-defined]
    assert str(path) not in [word for child in psutil.Process().children() for word in child.cmdline()]


def test_a_row_of_a_table_that_never_ends_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\n" + '"a\n",' * 4_000_000)
    said, grown, _ = trapped(READ, path)
    assert "a row longer than 4,000,000 characters; is a quote left open?" in said
    assert grown < 150


def test_a_block_that_never_ends_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Negative prompt: blurry\n" + ("more and more words " * 5 + "\n") * 400_000)
    said, grown, _ = trapped(READ, path)
    assert "line 1: more than 1,000 lines before one 'Negative prompt:' or 'Steps:'" in said
    assert grown < 35


@pytest.mark.parametrize(("many", "long"), [(40, 13), (2, 400)])
def test_columns_of_a_row_that_are_many_or_long_do_not_stay_in_memory(many: int, long: int) -> None:
    names = [f"{number} {'of many letters ' * long}" for number in range(many)]
    before = sys.getrefcount(names[0])
    labelled = request_of(Row("", {"prompt": "a", **dict.fromkeys(names, 1)})).labels == dict.fromkeys(names, 1)
    assert labelled
    gc.collect()
    after = sys.getrefcount(names[0])
    assert after == before


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_row_of_very_many_columns_is_refused_before_they_are_looked_at(tmp_path: Path, kind: str) -> None:
    names = ["prompt", *(f"k{number}" for number in range(10_000))]
    path = tmp_path / f"prompts.{kind}"
    path.write_text(f"{','.join(names)}\n" if kind == "csv" else json.dumps(dict.fromkeys(names, "a")))
    with pytest.raises(BadSpecification, match="10,001 columns; at most 10,000 are read"):
        list(read_manifest(manifest(path)))


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_row_of_very_many_values_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"prompts.{kind}"
    # It does not end: read, it would be refused for that.
    path.write_text('{"prompt": "a", "tags": [' + "1," * 150_000)
    with pytest.raises(BadSpecification, match=f"{kind} line 1: a row of more than 100,000 values"):
        list(read_manifest(manifest(path)))


def test_a_key_twice_among_very_many_is_found_at_once() -> None:
    code = """read_json('{' + ''.join(f'"k{n}": 1,' for n in range(300_000)) + '"k299999": 1}')"""
    assert trapped(code)[0] == "k299999: duplicate key; give it once"


def test_the_place_of_a_key_that_is_there_twice_is_not_sought_in_every_number() -> None:
    calls = Counter[str]()
    sys.setprofile(lambda frame, kind, _: calls.update([frame.f_code.co_name] if kind == "call" else []))
    try:
        with pytest.raises(BadSpecification, match="a.b.x: duplicate key"):
            read_json('{"a": {"many": [' + "1, " * 10_000 + '1], "b": {"x": 1, "x": 2}}}')
    finally:
        sys.setprofile(None)
    assert calls["_places"] < 20


def test_as_many_problems_as_a_body_has_fields_are_sorted_at_once() -> None:
    code = """from scheduler.api.problems import innermost; """
    code += """print(len(innermost([{"loc": ("body", f"k{n}", "a")[:2 + n % 2]} for n in range(200_000)])))"""
    assert trapped(code)[0] == "200000\nread"


def test_a_header_of_safetensors_is_not_unpacked_beyond_what_embeddings_need() -> None:
    tensors = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(2000)}
    header = json.dumps(tensors).encode()
    with pytest.raises(ValueError, match="its header has 1.* bytes; that of one picture's embeddings has a few"):
        check_embeddings(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        # Each variable stands twice in the next.
        (
            "${a={x}}" + "".join(f"${{{b}=${{{a}}}${{{a}}}}}" for a, b in pairwise("abcdefghijklmn")) + "${n}",
            None,
        ),
        ("{100-400$$" + "|".join(map(str, range(400))) + "}", "more than 1,000,000,000,000,000 prompts"),
        ("{a|b}" * 300, "more than 1,000,000,000,000,000 prompts"),
    ],
)
def test_counting_the_prompts_of_a_template_ends(template: str, says: str | None) -> None:
    said, grown, _ = trapped("Templates(texts=(sys.argv[1],)).counts()", template)
    assert (said == "read") if says is None else (says in said)
    assert grown < 100


def test_wildcards_within_wildcards_are_counted_in_bounded_steps() -> None:
    values = {f"w{n}": [{"text": f"__w{n + 1}__ __w{n + 1}__"}] for n in range(14)} | {"w14": [{"text": "(x)"}]}
    said, *_ = trapped(f"Templates(texts=('__w0__ ' * 40,), wildcards={values!r}).counts()")
    assert "its wildcards and variables stand within one another too often to be counted" in said


def test_aliases_of_yaml_that_multiply_are_refused() -> None:
    text = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefg"))
    with pytest.raises(BadSpecification, match="line 1: not YAML: an alias of a list or a mapping"):
        parse_yaml(text)
    assert parse_yaml("a: &a red\nb: [*a, blue]") == {"a": "red", "b": ["red", "blue"]}


@pytest.mark.parametrize(
    "text",
    [
        *("a: 2001-99-99", "a: 2001-01-01 99:99:99", "a: !!int x", "a: !!float x", "a: !!bool x", "a: !!timestamp x"),
        *("a: 0x_", "a: 0b_", "a: " + "9" * 5000, "a: 0x" + "f" * 5000, "a: " + ":".join(["59"] * 3000)),
        *("- " * 3000 + "a", "[" * 3000, "{a: " * 3000),
    ],
)
def test_values_of_yaml_that_are_none_are_told_as_such(text: str) -> None:
    with pytest.raises(BadSpecification, match="not YAML: "):
        parse_yaml(text)


# -- counting --------------------------------------------------------------------------------------------------


def test_pictures_are_counted_no_further_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n' * 3 + '{"prompt": 7}\n')
    order = Order(manifest=manifest(tmp_path / "prompts.jsonl"), pictures_each=2)
    assert [order.pictures(most) for most in (1, 3, 5, 6)] == [1, 3, 5, 6]
    # What is bad is told once all is read.
    assert order.pictures(7) == 6


def test_combinations_are_counted_without_being_made() -> None:
    values = {name: range(1, 1001) for name in ("steps", "seed", "guidance")}
    assert Order(prompts=("a", "b"), combined=values, pictures_each=3).pictures(10**12) == 6 * 10**9
    with pytest.raises(BadSpecification, match="1,000,000,000 combinations of values"):
        next(grid.multiplied(asked("a"), {}, values))


def test_combinations_that_do_not_fit_into_memory_are_made_one_by_one() -> None:
    made = grid.multiplied(asked("a", "b"), {}, {"seed": range(1500), "steps": range(1, 1001)})
    assert next(made).request.seed == 0
    few = [*grid.multiplied(asked("a", "b"), {}, {"seed": range(101), "steps": range(1, 101)})]
    assert len(few) == 20_200
    assert [few[number].request.prompt for number in (0, 10_099, 10_100, 20_199)] == ["a", "a", "b", "b"]


def asked(*prompts: str) -> Iterator[SourcedRequest]:
    return (SourcedRequest("", Request(prompt=prompt)) for prompt in prompts)


def test_inputs_beyond_the_first_that_is_wrong_are_not_looked_up(tmp_path: Path) -> None:
    uploads = Uploads(Database("sqlite://"), LocalObjects(tmp_path))
    known = StoredInputs(uploads, Submitter(owner="ann"))
    wanted = [SourcedRequest("", Request(prompt_embeds=f"file {number}")) for number in range(5)]
    known.fill(wanted)
    [found] = known.values()
    assert isinstance(found, BadSpecification)
    assert found.__traceback__ is None, "it would hold all that was read there"
    known.fill(wanted, beyond_wrong=True)
    assert len(known) == 5


def test_so_many_labels_are_remarked_on_one_by_one_and_no_more() -> None:
    labels = LabelRemarks()
    told = {remark for number in range(300) for remark in labels.on([f"column {number}", "topic"])}
    assert len(told) == 101
    assert {"topic: kept as a label", "column 98: kept as a label", "further columns: kept as labels"} <= told


def test_lines_that_are_left_out_are_counted_not_kept(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n' + "x\n" * 1000)
    bad = BadRows(report=lambda _: None)
    assert [one.request.prompt for one in read_manifest(manifest(tmp_path / "prompts.jsonl"), bad=bad)] == ["a"]
    assert bad.left_out == 1000
