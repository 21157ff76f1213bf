"""The registry's file: what comes with the farm beside one's own, entries written into it, edits noticed."""

import contextlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scheduler.local.doctor import Grade, examine
from scheduler.local.weights import missing
from storage.errors import BadSettings, DatabaseProblem, InvalidInput
from storage.settings import Settings
from storage.spec.last_registry import keep_registry, registry_or_last
from storage.spec.models import DiffusersModel
from storage.spec.registry import Registry, parse_registry, read_registry
from storage.spec.registry_file import add_entry, value_of
from storage.spec.registry_watch import RegistryWatch

OWN = '[models.mine]\nkind = "diffusers"\nsource = "someone/mine"\n'


def parsed(text: str) -> list[str]:
    return list(parse_registry(text, where="models.toml").models)


# -- builtin -------------------------------------------------------------------------------------------------------


def test_ones_own_models_stand_alone_or_beside_those_that_come_with_the_farm() -> None:
    assert parsed(OWN) == parsed(f"builtin = false\n{OWN}") == ["mine"]
    both = parse_registry(f"builtin = true\n{OWN}", where="models.toml")
    assert list(both.models) == ["mine", "shapes", "shapes-silhouette", "simulated"]
    assert both.default == "mine"


def test_of_two_entries_of_one_name_ones_own_counts() -> None:
    own = parse_registry('builtin = true\n[models.shapes]\nkind = "simulated"\n', where="models.toml")
    assert own["shapes"].kind == "simulated"
    assert parsed("builtin = true") == ["shapes", "shapes-silhouette", "simulated"]


@pytest.mark.parametrize("value", ['"yes"', "1", "[]"])
def test_whether_they_stay_is_true_or_false(value: str) -> None:
    with pytest.raises(BadSettings, match="builtin must be true or false"):
        parsed(f"builtin = {value}\n{OWN}")


@pytest.mark.parametrize(
    ("key", "here"),
    [
        ("steps", "num_inference_steps"),
        ("cfg_scale", "guidance_scale"),
        ("scheduler", "sampler"),
        ("repo_id", "source"),
    ],
)
def test_a_key_that_others_call_otherwise_is_told_by_its_name_here(key: str, here: str) -> None:
    with pytest.raises(BadSettings, match=rf"\[models.mine\] {key}: unknown field; {key} here is {here}"):
        parsed(f"{OWN}{key} = 3\n")


# -- adding --------------------------------------------------------------------------------------------------------


def test_an_entry_is_added_and_everything_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    before = f"# Mine.\n{OWN}# The end"
    file.write_text(before)
    file.chmod(0o640)
    entry = {"kind": "diffusers", "source": "a/b", "width": 768, "channels_last": False, "sampler": "dpm++ 2m"}
    registry = add_entry(file, "models", "new.v1", entry)
    assert file.read_text().startswith(f'{before}\n\n[models."new.v1"]\n')
    assert read_registry(Settings(home=tmp_path)) == registry
    assert registry["new.v1"].model_dump().items() >= entry.items()
    assert (registry.default, file.stat().st_mode & 0o777) == ("mine", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_a_file_is_made_that_keeps_the_models_of_the_farm(tmp_path: Path) -> None:
    registry = add_entry(tmp_path / "home" / "models.toml", "models", "mine", {"kind": "diffusers", "source": "a/b"})
    assert list(registry.models) == ["mine", "shapes", "shapes-silhouette", "simulated"]
    assert registry.default == "shapes"


@pytest.mark.parametrize("before", ["", OWN, f'default = "mine" # as ever\n{OWN}', f"# top\nbuiltin = true\n\n{OWN}"])
def test_it_becomes_the_default_where_that_is_wanted(tmp_path: Path, before: str) -> None:
    file = tmp_path / "models.toml"
    if before:
        file.write_text(before)
    add_entry(file, "models", "new", {"kind": "simulated"}, default=True)
    add_entry(file, "models", "newer", {"kind": "simulated"}, default=True)
    registry = read_registry(Settings(home=tmp_path))
    assert registry.default == "newer"
    assert {"new", "newer"} <= registry.models.keys()
    assert file.read_text().count("default =") == 1


@pytest.mark.parametrize(
    ("table", "alias", "entry", "words"),
    [
        ("models", "mine", {"kind": "simulated"}, r"has an entry \[models.mine\] already; edit it there"),
        ("models", "Über", {"kind": "simulated"}, "alias"),
        ("models", "new", {"kind": "diffusers", "source": "a/b", "steps": 4}, "steps here is num_inference_steps"),
        ("models", "new", {"kind": "simulated", "width": "wide"}, "width"),
        ("loras", "ink", {"source": "a/b", "models": ["nobody"]}, "'nobody' is not one of mine"),
        ("models", 'a"]\n[models.b', {"kind": "simulated"}, "alias"),
    ],
)
def test_what_is_wrong_is_not_written(
    tmp_path: Path, table: str, alias: str, entry: dict[str, object], words: str
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(OWN)
    with pytest.raises(InvalidInput, match=words):
        add_entry(file, table, alias, entry)
    assert file.read_text() == OWN
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_line_ends_of_windows_and_a_byte_order_mark_stay(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    before = f'\ufeff# Mine.\ndefault = "mine" # as ever\n{OWN}'.replace("\n", "\r\n").encode()
    file.write_bytes(before)
    assert list(read_registry(Settings(home=tmp_path)).models) == ["mine"]
    registry = add_entry(file, "models", "new", {"kind": "simulated"}, default=True)
    after = file.read_bytes()
    assert after.startswith(before.replace(b'default = "mine"', b'default = "new"') + b"\r\n[models.new]\r\n")
    assert after.count(b"\n") == after.count(b"\r\n")
    assert read_registry(Settings(home=tmp_path)) == registry
    # A multi-line text of a file that has both kinds keeps its own.
    file.write_bytes(b'[models.mine]\nkind = "simulated"\nnegative_prompt = """a\r\nb"""\n')
    add_entry(file, "models", "new", {"kind": "simulated"})
    assert b'"""a\r\nb"""\n\n[models.new]\n' in file.read_bytes()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (OWN.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (f"# cr\n\n# cr\xe8me\n{OWN}".encode("latin-1"), "line 3 has a letter in another encoding; save it as UTF-8"),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, written: bytes, words: str) -> None:
    file = tmp_path / "models.toml"
    file.write_bytes(written)
    with pytest.raises(BadSettings, match=words):
        read_registry(Settings(home=tmp_path))
    with pytest.raises(BadSettings, match=words):
        add_entry(file, "models", "new", {"kind": "simulated"})
    assert file.read_bytes() == written


def test_what_a_link_names_is_changed_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.toml").write_text(OWN)
    file = tmp_path / "models.toml"
    file.symlink_to("kept/mine.toml")
    add_entry(file, "models", "new", {"kind": "simulated"})
    assert file.is_symlink()
    assert "[models.new]" in (tmp_path / "kept" / "mine.toml").read_text()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine.toml"]


def test_of_several_that_add_at_once_each_adds_its_own(tmp_path: Path) -> None:
    file, wanted = tmp_path / "models.toml", [f"m{number}" for number in range(12)]
    with ThreadPoolExecutor(max_workers=6) as threads:
        list(threads.map(lambda alias: add_entry(file, "models", alias, {"kind": "simulated"}), wanted))
    assert set(wanted) <= read_registry(Settings(home=tmp_path)).models.keys()


def test_a_write_protected_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "models.toml"
    file.write_text(OWN)
    file.chmod(0o444)
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    with pytest.raises(BadSettings, match="write-protected"):
        add_entry(file, "models", "new", {"kind": "simulated"})
    assert file.read_text() == OWN
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


@pytest.mark.parametrize("table", ["models.new", "loras.ink"])
def test_an_alias_written_as_a_key_is_refused(table: str) -> None:
    entry = 'kind = "simulated"' if table == "models.new" else 'source = "a/b"'
    with pytest.raises(BadSettings, match=rf"\[{table}\] alias: the table's own name is its alias; drop the key"):
        parsed(f"{OWN}[{table}]\n{entry}\nalias = 'other'\n")


def test_sources_that_no_system_takes_are_of_nothing_that_is_there(tmp_path: Path) -> None:
    for source in (
        "~nobody-of-this-name/m.safetensors",
        f"./{'x' * 300}.safetensors",
        f"{'x' * 300}/m",
        "nul\\u0000/m",
    ):
        text = f'builtin = true\n[models.m]\nkind = "diffusers"\nsource = "{source}"\n[loras.l]\nsource = "{source}"\n'
        registry = parse_registry(text, where="x", folder=tmp_path)
        model = registry["m"]
        assert isinstance(model, DiffusersModel)
        assert missing(model)
        assert registry.loras["l"].source == model.source
    with pytest.raises(BadSettings, match="there is no folder .*~nobody-of-this-name"):
        parse_registry('builtin = true\n[loras]\nfolder = "~nobody-of-this-name"', where="x", folder=tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "https://huggingface.co/someone/some-model/tree/main",
            "is an address; name the repository, someone/some-model",
        ),
        ("https://example.com/m.safetensors", r"is an address; name a repository of the hub \(OWNER/NAME\), or fetch"),
        ("m.gguf", "m.gguf is quantized for other programs"),
        ("folder/m.onnx", "m.onnx is an ONNX graph"),
        ("m.zip", "m.zip is an archive; unpack it"),
        ("M.SafeTensors", "M.SafeTensors: write its ending in small letters"),
        ("OLD.CKPT", "OLD.CKPT is pickled"),
        ("  ", "must name a folder, a safetensors file or a repository"),
    ],
)
def test_what_is_never_read_is_refused_wherever_it_stands(tmp_path: Path, source: str, words: str) -> None:
    for text in (
        f'[models.m]\nkind = "diffusers"\nsource = "{source}"',
        f'[models.m]\nkind = "diffusers"\nsource = "a/b"\nvae = "{source}"',
        f'builtin = true\n[loras.m]\nsource = "{source}"',
        f'builtin = true\n[embeddings.m]\nsource = "{source}"',
    ):
        with pytest.raises(BadSettings, match=words):
            parse_registry(text, where="x", folder=tmp_path)


@pytest.mark.parametrize("text", ['with "quotes" and \\ and 🦄', "two\nlines\tand a tab", "del \x7f", ""])
def test_any_text_is_read_as_it_was_written(tmp_path: Path, text: str) -> None:
    add_entry(
        tmp_path / "models.toml", "models", "new", {"kind": "diffusers", "source": "a/b", "negative_prompt": text}
    )
    model = read_registry(Settings(home=tmp_path))["new"]
    assert isinstance(model, DiffusersModel)
    assert model.negative_prompt == text


@pytest.mark.parametrize(
    ("given", "value"),
    [("4", 4), ("0.5", 0.5), ("true", True), ("euler a", "euler a"), ('"4"', "4"), ('["a/b"]', ["a/b"]), ("", "")],
)
def test_values_need_no_quotes(given: str, value: object) -> None:
    assert value_of(given) == value


# -- edits ---------------------------------------------------------------------------------------------------------


def test_a_process_follows_an_edit_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(home=tmp_path)
    registry, told = read_registry(settings), []
    watch = RegistryWatch(settings, registry, changed=lambda: told.append(list(registry.models)))
    for _ in range(3):
        watch.look()
    assert not told
    add_entry(tmp_path / "models.toml", "models", "new", {"kind": "simulated"})
    watch.look()
    # An editor may be half-way.
    assert "new" not in registry.models
    for _ in range(3):
        watch.look()
    assert [list(registry.models)] == told
    assert "new" in registry.models
    (tmp_path / "models.toml").unlink()
    for _ in range(3):
        watch.look()
    assert "new" not in registry.models
    assert [record.message for record in caplog.records] == [
        "the model registry was edited; its entries count from now on"
    ] * 2


def test_after_a_wrong_edit_the_entries_before_it_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, file = Settings(home=tmp_path), tmp_path / "models.toml"
    add_entry(file, "models", "new", {"kind": "simulated", "width": 64})
    right, registry = file.read_text(), read_registry(settings)
    watch = RegistryWatch(settings, registry)
    file.write_text(right + "steps = 4\n")
    for _ in range(4):
        watch.look()
    assert registry["new"].width == 64
    [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.message.startswith("the model registry was edited and is wrong; the entries before it stay")
    models = next(one for one in examine(settings) if one.what == "models")
    assert models.grade is Grade.BROKEN
    assert "steps here is num_inference_steps; what runs goes on with the entries before it" in models.words
    file.write_text(right.replace("64", "128"))
    for _ in range(2):
        watch.look()
    assert registry["new"].width == 128


def test_what_could_not_be_told_is_told_at_the_next_look(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    tries: list[bool] = []

    def changed() -> None:
        tries.append(True)
        if len(tries) < 3:
            raise DatabaseProblem("away")

    watch = RegistryWatch(settings, read_registry(settings), changed=changed)
    add_entry(tmp_path / "models.toml", "models", "new", {"kind": "simulated"})
    for _ in range(6):
        with contextlib.suppress(DatabaseProblem):
            watch.look()
    assert len(tries) == 3


def test_a_registry_that_a_process_cannot_serve_is_not_followed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    registry = read_registry(settings)

    def check(found: Registry) -> None:
        raise BadSettings(f"none of {', '.join(found.models)}")

    watch = RegistryWatch(settings, registry, check=check)
    add_entry(tmp_path / "models.toml", "models", "new", {"kind": "simulated"})
    for _ in range(4):
        watch.look()
    assert "new" not in registry.models


def test_a_worker_that_starts_again_goes_on_with_the_last_registry_that_was_right(tmp_path: Path) -> None:
    settings, file = Settings(home=tmp_path), tmp_path / "models.toml"
    add_entry(file, "models", "new", {"kind": "diffusers", "source": "./here"})
    keep_registry(settings)
    file.write_text("[models")
    with pytest.raises(BadSettings):
        read_registry(settings)
    model = registry_or_last(settings)["new"]
    assert isinstance(model, DiffusersModel)
    assert model.source == str(tmp_path / "here")
    (tmp_path / "models.last.toml").unlink()
    with pytest.raises(BadSettings):
        registry_or_last(settings)
