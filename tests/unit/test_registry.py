from pathlib import Path

import pytest

from scheduler.local.doctor import Finding, Grade, examine
from storage.errors import BadSettings, BadSpecification, NotFound
from storage.settings import Settings
from storage.spec.model_files import not_found
from storage.spec.models import DiffusersModel, SimulatedModel
from storage.spec.picture import VERSION, Request
from storage.spec.registry import parse_registry, read_registry

TWO_MODELS = """
default = "large"

[models.small]
kind = "simulated"
width = 64
height = 64
num_inference_steps = 4
guidance_scale = 0.0
batch_limit = 2

[models.large]
kind = "diffusers"
source = "someone/large"
revision = "0123abc"
negative_prompt = "blurry"
sampler = "Euler a"
"""

REGISTRY = parse_registry(TWO_MODELS, where="models.toml")


# -- reading ---------------------------------------------------------------------------------------------------


def test_models_are_read_in_the_order_of_the_file() -> None:
    assert list(REGISTRY.models) == ["small", "large"]
    assert isinstance(REGISTRY["small"], SimulatedModel)
    assert isinstance(REGISTRY["large"], DiffusersModel)
    assert REGISTRY["large"].alias == "large"


def test_the_first_model_is_the_default_where_none_is_named() -> None:
    assert parse_registry('[models.b]\nkind = "simulated"\n[models.a]\nkind = "simulated"', where="x").default == "b"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", r"\[models\.ALIAS\]"),
        ("models = 3", r"\[models\.ALIAS\]"),
        ("[models]", r"\[models\.ALIAS\]"),
        ("nonsense", "line 1|end of document"),
        ('colour = "red"\n[models.a]\nkind = "simulated"', "colour"),
        ("[models]\na = 3", r"\[models\.a\]"),
        ("[models.a]", r"\[models\.a\].*kind"),
        ('[models.a]\nkind = "pickle"', r"\[models\.a\].*simulated"),
        ('[models.a]\nkind = "diffusers"', r"\[models\.a\].*source"),
        ('[models.a]\nkind = "simulated"\nwidht = 64', r"\[models\.a\].*widht"),
        ('[models.a]\nkind = "simulated"\nwidth = 100', r"\[models\.a\].*width"),
        ('[models.a]\nkind = "simulated"\nbatch_limit = 0', r"\[models\.a\].*batch_limit"),
        ('[models.a]\nkind = "simulated"\nsampler = "eular"', r"\[models\.a\].*sampler"),
        ('[models.a]\nkind = "simulated"\nguidance_scale = nan', r"\[models\.a\].*guidance_scale"),
        ('default = "b"\n[models.a]\nkind = "simulated"', "default 'b'.*a"),
        ('default = 3\n[models.a]\nkind = "simulated"', "default 3.*a"),
        ('default = ["a"]\n[models.a]\nkind = "simulated"', "default"),
    ],
)
def test_a_wrong_registry_is_refused_naming_the_file_and_the_entry(text: str, named: str) -> None:
    with pytest.raises(BadSettings, match=f"^model registry models.toml: .*{named}") as refusal:
        parse_registry(text, where="models.toml")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("alias", ["A", "-a", "../a", "a b", "a/b", "", "ä", "a" * 64, "a\\n"])
def test_an_alias_that_is_no_plain_name_is_refused(alias: str) -> None:
    # It becomes the name of a queue, of rows and of metrics.
    with pytest.raises(BadSettings, match="alias"):
        parse_registry(f'[models."{alias}"]\nkind = "simulated"', where="models.toml")


@pytest.mark.parametrize("alias", ["a", "0", "sdxl-1.0_turbo", "a" * 63])
def test_a_plain_name_is_an_alias(alias: str) -> None:
    assert parse_registry(f'[models."{alias}"]\nkind = "simulated"', where="models.toml").default == alias


def test_the_built_in_registry_is_used_where_there_is_no_file(tmp_path: Path) -> None:
    registry = read_registry(Settings(home=tmp_path))
    assert registry.default in registry.models


def test_a_registry_in_the_farms_home_replaces_the_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(TWO_MODELS)
    assert list(read_registry(Settings(home=tmp_path)).models) == ["small", "large"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"nonsense"])
def test_a_registry_that_was_named_and_cannot_be_read_is_refused_naming_it(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "farm-models.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSettings, match="farm-models.toml"):
        read_registry(Settings(home=tmp_path, models_file=file))


# -- asking for a model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["medium", "someone/large", "../../etc", "https://example.org/model"])
def test_an_unknown_model_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(NotFound, match="small, large") as refusal:
        REGISTRY.resolve(Request.parse({"prompt": "a cat", "model": name}), seed=1)
    assert repr(name) in str(refusal.value)


def test_a_list_of_aliases_is_read_and_an_empty_one_means_all() -> None:
    assert REGISTRY.aliases("large") == ["large"]
    assert REGISTRY.aliases(" large , small,") == ["large", "small"]
    assert REGISTRY.aliases("") == ["small", "large"]
    with pytest.raises(NotFound, match="medium"):
        REGISTRY.aliases("small,medium")


# -- resolving a request ---------------------------------------------------------------------------------------


def test_what_a_request_leaves_out_is_the_models_default() -> None:
    spec = REGISTRY.resolve(Request.parse({"prompt": "a cat"}), seed=7)
    assert spec.model == "large"
    assert (spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale) == (512, 512, 30, 7.5)
    assert (spec.negative_prompt, spec.sampler, spec.seed) == ("blurry", "euler a", 7)


def test_what_a_request_gives_is_kept() -> None:
    given = {
        "prompt": "a cat",
        "negative_prompt": "",
        "model": "small",
        "width": 128,
        "height": 192,
        "num_inference_steps": 9,
        "guidance_scale": 1.5,
        "sampler": "ddim",
        "seed": 0,
    }
    assert REGISTRY.resolve(Request.parse(given), seed=7).fields() == given | {"version": VERSION}


def test_a_picture_too_large_for_any_device_is_refused() -> None:
    with pytest.raises(BadSpecification, match="width, height: 8192×8192"):
        REGISTRY.resolve(Request.parse({"prompt": "a cat", "width": 8192, "height": 8192}), seed=7)


def test_a_seed_that_is_none_is_refused_wherever_it_came_from() -> None:
    with pytest.raises(BadSpecification, match="^seed: "):
        REGISTRY.resolve(Request.parse({"prompt": "a cat"}), seed=2**63)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('source = "x"', r"\[models\.a\] kind: missing"),
        ('kind = "comfy"', r"\[models\.a\] kind: must be one of 'diffusers', 'simulated' \(given: 'comfy'\)"),
        ('kind = "diffusers"', r"\[models\.a\] source: missing"),
        ('kind = "simulated"\nsource = "x"', r"\[models\.a\] source: unknown field; known fields: kind, "),
        ('kind = "diffusers"\nsource = "x"\nbatchlimit = 3', r"batchlimit: unknown field; did you mean batch_limit"),
        ('kind = "diffusers"\nsource = "x"\nbatch_limit = "3 or 4"', r"batch_limit: must be a whole number .*\"auto\""),
        ('kind = "diffusers"\nsource = "x"\nbatch_limit = true', r"batch_limit: must be a whole number .*\"auto\""),
        (
            'kind = "simulated"\nfault = { kind = "death", promt = "x" }',
            r"fault\.promt: unknown field; did you mean prompt",
        ),
    ],
)
def test_a_wrong_entry_is_told_in_the_words_of_the_file(entry: str, words: str) -> None:
    with pytest.raises(BadSettings, match=words) as refusal:
        parse_registry(f"[models.a]\n{entry}\n", where="models.toml")
    assert "Extra inputs" not in str(refusal.value)
    assert "discriminator" not in str(refusal.value)


# -- where sources are -----------------------------------------------------------------------------------------------


def test_a_relative_source_starts_in_the_registrys_folder_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "mine" / "model").mkdir(parents=True)
    (tmp_path / "home" / "ink.safetensors").touch()
    (tmp_path / "elsewhere" / "someone" / "large").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    sources = {
        "mine/model": "mine/model",
        "./mine/model": "mine/model",
        "../home/mine/model": "mine/model",
        "./gone": "gone",
        "deep/down/below": "deep/down/below",
        "ends/": "ends",
    }
    home = tmp_path / "home"
    lines = [
        f'[models.m{index}]\nkind = "diffusers"\nsource = "{source}"\ncontrolnets = ["{source}", {{ source = "a/b" }}]'
        for index, source in enumerate(sources)
    ]
    lines.append('[models.hub]\nkind = "diffusers"\nsource = "someone/large"\nrevision = "v1"')
    lines.append('[models.own]\nkind = "diffusers"\nsource = "shipped:shapes"')
    lines.append('[loras.ink]\nsource = "ink.safetensors"\n[loras.oil]\nsource = "someone/oil"')
    (home / "models.toml").write_text("\n".join(lines))
    registry = read_registry(Settings(home=home))
    for index, expected in enumerate(sources.values()):
        model = registry[f"m{index}"]
        assert isinstance(model, DiffusersModel)
        assert model.source == str(home / expected)
        assert [net.source for net in model.controlnets] == [str(home / expected), "a/b"]
    assert [registry[alias].source for alias in ("hub", "own")] == ["someone/large", "shipped:shapes"]  # type: ignore[union-attr]
    assert [lora.source for lora in registry.loras.values()] == [str(home / "ink.safetensors"), "someone/oil"]


def test_a_folder_that_is_not_there_is_not_to_be_downloaded(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[models.m]\nkind = "diffusers"\nsource = "./gone"\ncontrolnets = ["someone/net", "/no/net"]\n'
        '[loras.ink]\nsource = "./ink.safetensors"\n'
    )
    registry = read_registry(Settings(home=tmp_path))
    assert not_found(registry["m"]) == [str(tmp_path / "gone"), "/no/net"]
    assert not_found(registry.loras["ink"]) == [str(tmp_path / "ink.safetensors")]
    (tmp_path / "gone").mkdir()
    assert not_found(registry["m"]) == ["/no/net"]


def test_doctor_names_folders_that_are_not_there_and_what_is_to_be_downloaded(tmp_path: Path) -> None:
    def found(text: str, **settings: str) -> Finding:
        (tmp_path / "models.toml").write_text(text)
        return next(one for one in examine(Settings(home=tmp_path, **settings)) if one.what == "models")

    here = found('[models.m]\nkind = "diffusers"\nsource = "someone/never-fetched"')
    assert (here.grade, "to be downloaded: m" in here.words) == (Grade.GOOD, True)
    gone = found('[models.m]\nkind = "diffusers"\nsource = "./gone"\n[loras.ink]\nsource = "/no/ink.safetensors"')
    assert gone.grade is Grade.BROKEN
    assert f"m: no {tmp_path / 'gone'} here" in gone.words
    assert "LoRA ink: no /no/ink.safetensors" in gone.words
