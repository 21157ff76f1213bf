"""What single files are, by their headers: read, or refused with what they are and what to do."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BadSettings, BadSpecification
from storage.settings import Settings
from storage.spec.models import PICKLED, DiffusersModel
from storage.spec.picture import Request
from storage.spec.registry import parse_registry, read_registry
from storage.spec.safetensors_header import read_header
from storage.spec.single_file import look_into
from tests.safetensors_files import SD, SD2, SDXL, written


@pytest.mark.parametrize(
    ("tensors", "kind", "family"),
    [
        (SD, "checkpoint", "sd1"),
        (SD2, "checkpoint", "sd2"),
        (SDXL, "checkpoint", "sdxl"),
        ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "ControlNet", None),
        ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "ControlNet", None),
        ({"encoder.conv_in.weight": (1,), "decoder.conv_in.weight": (1,), "quant_conv.bias": (8,)}, "VAE", None),
        ({"first_stage_model.encoder.conv_in.weight": (1,), "first_stage_model.x": (1,)}, "VAE", None),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}, "LoRA", None),
        ({"emb_params": (4, 768)}, "embedding", None),
        ({"clip_g": (2, 1280), "clip_l": (2, 768)}, "embedding", None),
        ({"<cat>": (768,)}, "embedding", None),
        ({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (1, 2048)} | {"a": (1,), "b": (1,)},
         "denoiser", "sdxl"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (1,), "x": (1,), "y": (1,)}, "text encoder", None),
        ({"nothing.like.it": (1,), "x": (1,), "y": (1,)}, "unknown", None),
    ],
)  # fmt: skip
def test_a_file_is_told_by_its_tensors_names(
    tensors: Mapping[str, Sequence[int]], kind: str, family: str | None, tmp_path: Path
) -> None:
    found = look_into(written(tmp_path / "file.safetensors", tensors))
    assert (found.kind, found.family) == (kind, family)


def test_stable_diffusion_2_tells_v_by_how_much_a_tensor_varies(tmp_path: Path) -> None:
    for numbers, expected in (((0.3, -0.3, 0.3, -0.3), "v_prediction"), ((0.01, -0.01, 0.01, -0.01), "epsilon")):
        found = look_into(written(tmp_path / f"{expected}.safetensors", SD2, numbers=numbers))
        assert found.prediction == expected
    said = written(tmp_path / "said.safetensors", SD2, metadata={"modelspec.prediction_type": "epsilon"})
    assert look_into(said).prediction == "epsilon"
    beside = written(tmp_path / "v.safetensors", SDXL | {"v_pred": (0,), "ztsnr": (0,)})
    assert (look_into(beside).prediction, look_into(beside).zero_snr) == ("v_prediction", True)
    plain = look_into(written(tmp_path / "plain.safetensors", SDXL))
    assert (plain.prediction, plain.zero_snr) == (None, False)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (SD | {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "it is for inpainting"),
        (SD | {"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)}, "it changes given pictures"),
        (SD | {"model.diffusion_model.x.scale_weight": ()}, "its eight bits have scales of their own .*; take fp16"),
        (SDXL | {"edm_mean": (4,), "edm_std": (4,)}, "its noise schedule is EDM's"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "it is Stable Diffusion 3, .* in Diffusers layout only"),
        ({"model.diffusion_model.double_blocks.0.x": (1,)}, "it is FLUX, .* in Diffusers layout only"),
        ({"conditioner.embedders.0.model.x": (1,), "model.diffusion_model.x": (1,)}, "it is SDXL's refiner"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "it has no text encoder"),
        ({name: shape for name, shape in SD.items() if "first" not in name}, "it has no VAE; name one, `vae = …`"),
        ({"lora_te1_x.lora_down.weight": (4, 8)}, r"it is a LoRA, not a checkpoint; make it an entry \[loras.ALIAS\]"),
        ({"controlnet_cond_embedding.conv_in.weight": (1,)}, "it is a ControlNet, not .* `controlnets` of a model"),
        ({"encoder.conv_in.weight": (1,)} | {"x": (1,), "y": (1,)}, "it is a VAE, not a checkpoint; name it as `vae`"),
        ({"emb_params": (4, 768)}, r"it is an embedding, not a checkpoint; make it an entry \[embeddings.ALIAS\]"),
        ({"double_blocks.0.x": (1,), "b": (1,), "c": (1,)}, "it is a denoiser, not a checkpoint; it lacks text"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_the_farms_is_refused_at_the_door(
    tensors: Mapping[str, Sequence[int]], words: str, tmp_path: Path
) -> None:
    written(tmp_path / "m.safetensors", tensors)
    registry = parse_registry('[models.m]\nkind = "diffusers"\nsource = "m.safetensors"', where="x", folder=tmp_path)
    with pytest.raises(BadSpecification, match=f"model: m: m.safetensors cannot be loaded: {words}"):
        registry.resolve(Request(prompt="a star"), seed=1)


def test_parts_of_another_kind_or_family_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "sd.safetensors", SD)
    xl = {"controlnet_cond_embedding.conv_in.weight": (1,), "down_blocks.1.attn2.to_k.weight": (8, 2048)}
    written(tmp_path / "xl.safetensors", xl)
    written(tmp_path / "control-lora.safetensors", {"lora_controlnet": (0,)})
    written(tmp_path / "union.safetensors", xl | {"task_embedding": (1,)})
    for keys, words in (
        ('vae = "xl.safetensors"', "it is a ControlNet for SDXL, not a VAE"),
        ('controlnets = ["xl.safetensors"]', "it was made for SDXL, and this model is Stable Diffusion 1.x"),
        ('controlnets = ["control-lora.safetensors"]', "it is a Control-LoRA"),
        ('controlnets = ["union.safetensors"]', "several tasks"),
    ):
        text = f'[models.m]\nkind = "diffusers"\nsource = "sd.safetensors"\n{keys}'
        registry = parse_registry(text, where="x", folder=tmp_path)
        with pytest.raises(BadSpecification, match=words):
            registry.resolve(Request(prompt="a star"), seed=1)


def test_a_controlnet_of_another_family_than_a_folders_is_refused(tmp_path: Path) -> None:
    xl = {"controlnet_cond_embedding.conv_in.weight": (1,), "down_blocks.1.attn2.to_k.weight": (8, 2048)}
    written(tmp_path / "xl.safetensors", xl)
    (tmp_path / "m" / "unet").mkdir(parents=True)
    (tmp_path / "m" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "m" / "unet" / "config.json").write_text('{"cross_attention_dim": 768}')
    text = '[models.m]\nkind = "diffusers"\nsource = "m"\ncontrolnets = ["xl.safetensors"]'
    with pytest.raises(BadSpecification, match="it was made for SDXL, and this model is Stable Diffusion 1.x"):
        parse_registry(text, where="x", folder=tmp_path).resolve(Request(prompt="a star"), seed=1)


def test_damaged_files_say_how(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.safetensors", SD).read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8:length])

    def lying(change: Mapping[str, object]) -> bytes:
        first = next(iter(table))
        text = json.dumps(table | {first: table[first] | change}).encode()
        return len(text).to_bytes(8, "little") + text + whole[length:]

    for number, (data, words) in enumerate(
        [
            (whole[:-1], "it is cut short: its tensors take"),
            (whole[: length - 1], "it is cut short, within its header"),
            (whole[:5], "its header has no length"),
            (b"", "it is empty; fetch or copy it again"),
            (b"<!DOCTYPE html><html>", "it is a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid x", "it is a pointer of Git LFS"),
            (b"PK\x03\x04\0\0\0\0archive/data.pkl", "it is an archive, as PyTorch's pickled files are"),
            (b"GGUF\3\0\0\0\0\0", "it is a GGUF file"),
            (whole + b"x", "its header lies: 1 bytes of it belong to no tensor"),
            (lying({"shape": [5, 5]}), "its header lies: .* is said to take"),
            (lying({"data_offsets": [4, 46084]}), "its header lies"),
            (lying({"data_offsets": [-4, 46076]}), "its header lies"),
            (lying({"shape": "x"}), "its header"),
            ((4).to_bytes(8, "little") + b"nope", "its header is not JSON"),
            ((2).to_bytes(8, "little") + b"[]", "its header is not a table"),
        ]
    ):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(data)
        with pytest.raises(ValueError, match=words):
            read_header(file)
        text = f'[models.m]\nkind = "diffusers"\nsource = "{file}"'
        with pytest.raises(BadSpecification, match="model: m: .* cannot be loaded: "):
            parse_registry(text, where="x").resolve(Request(prompt="a star"), seed=1)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"a": T, "a": T}', "its header lies: it has a twice"),
        ('{"a": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}}', r"a is of numbers of a kind .* \(F7\)"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}', "does not describe tensors"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": 8}}', "does not describe tensors"),
        ('{"a": T, "__metadata__": ["x"]}', r"what it says of itself \(__metadata__\) is no table of texts"),
        ('{"a": T, "__metadata__": {"x": 1}}', "is no table of texts"),
        (r'{"a\ud83d": T}', "its header is not JSON"),
        ('{"a": T}'.encode("utf-16"), "its header is not JSON"),
        ("[" * 100_000, "its header is not JSON"),
        ('{"a": 1e999999}', "does not describe tensors"),
    ],
)
def test_headers_that_its_library_would_not_read_are_refused(header: str | bytes, words: str, tmp_path: Path) -> None:
    tensor = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    text = header if isinstance(header, bytes) else header.replace("T", tensor).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=words):
        read_header(file)


def test_headers_that_say_nothing_of_themselves_are_read(tmp_path: Path) -> None:
    for number, said in enumerate(("null", "{}", '{"x": "1", "x": "2"}')):
        text = f'{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "__metadata__": {said}}}'.encode()
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        assert list(read_header(file).tensors) == ["a"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name, words in (("pipe", "no file with contents of its own"), ("folder", "it is a folder, and its name that")):
        text = f'[models.m]\nkind = "diffusers"\nsource = "{name}.safetensors"'
        with pytest.raises(BadSpecification, match=words):
            parse_registry(text, where="x", folder=tmp_path).resolve(Request(prompt="a star"), seed=1)
    (tmp_path / "notes.txt").touch()
    registry = parse_registry('[models.m]\nkind = "diffusers"\nsource = "./notes.txt"', where="x", folder=tmp_path)
    with pytest.raises(BadSpecification, match=r"model: m: notes.txt cannot be loaded: it is a file, and none of"):
        registry.resolve(Request(prompt="a star"), seed=1)


@pytest.mark.parametrize(
    ("dtype", "codes"),
    # 0.3125, -0.3125; and 0.01953125, -0.01953125: by the formats' tables.
    [("F8_E4M3", ((0x2A, 0xAA), (0x0A, 0x8A))), ("F8_E5M2", ((0x35, 0xB5), (0x25, 0xA5)))],
)
def test_stable_diffusion_2_in_eight_bits_tells_what_it_predicts(
    dtype: str, codes: Sequence[Sequence[int]], tmp_path: Path
) -> None:
    whole = written(tmp_path / "whole.safetensors", SD2).read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8:length])
    name = next(name for name, shape in SD2.items() if shape == (4,))
    # The last of the file, in place of what was there.
    rest = {other: entry for other, entry in table.items() if other != name}
    at = 0
    for entry in rest.values():
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["data_offsets"] = [at, at + size]
        at += size
    for two, expected in zip(codes, ("v_prediction", "epsilon"), strict=True):
        text = json.dumps(rest | {name: {"dtype": dtype, "shape": [4], "data_offsets": [at, at + 4]}}).encode()
        file = tmp_path / f"{expected}.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at) + bytes([*two, *two]))
        assert look_into(file).prediction == expected


@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(data: bytes) -> None:
    # Not by a fixture: it would be one folder for all examples.
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(ValueError):
            read_header(Path(file.name))


@pytest.mark.parametrize("suffix", PICKLED)
def test_pickled_files_are_refused_with_how_to_convert_them(suffix: str, tmp_path: Path) -> None:
    for entry in (
        f'source = "m{suffix}"',
        f'source = "a/b"\nvae = "m{suffix}"',
        f'source = "a/b"\ncontrolnets = ["m{suffix}"]',
    ):
        with pytest.raises(BadSettings, match=f"m{suffix} is pickled.* python -m worker.rendering.to_safetensors FILE"):
            parse_registry(f'[models.m]\nkind = "diffusers"\n{entry}', where="x", folder=tmp_path)


def test_keys_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    for keys, words in (
        ('source = "m.safetensors"\nrevision = "main"', "revision is a key of folders and repositories"),
        ('source = "m.safetensors"\nvariant = "fp16"', "variant is a key of folders and repositories"),
        ('source = "a/b"\nconfig = "a/b"', "config is a key of single safetensors files"),
        ('source = "a/b"\nprediction_type = "epsilon"', "prediction_type is a key of single"),
        ('source = "a/b"\nzero_snr = true', "zero_snr is a key of single"),
        ('source = "m.safetensors"\nsafety_checker = true', "safety_checker: there is none in a single file"),
    ):
        with pytest.raises(BadSettings, match=words):
            parse_registry(f'[models.m]\nkind = "diffusers"\n{keys}', where="x", folder=tmp_path)


def test_a_source_may_begin_at_home_and_beside_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "models.toml").write_text(
        '[models.m]\nkind = "diffusers"\nsource = "~/m.safetensors"\nconfig = "~/config"\nvae = "vae.safetensors"'
    )
    model = read_registry(Settings(home=tmp_path))["m"]
    assert isinstance(model, DiffusersModel)
    assert model.source == str(tmp_path / "user" / "m.safetensors")
    assert model.config == str(tmp_path / "user" / "config")
    # A file, whether it is there or not: never a repository of the hub.
    assert model.vae is not None
    assert model.vae.source == str(tmp_path / "vae.safetensors")


def test_two_aliases_of_one_file_share_its_weights(tmp_path: Path) -> None:
    entry = 'kind = "diffusers"\nsource = "m.safetensors"\n'
    registry = parse_registry(f"[models.a]\n{entry}[models.b]\n{entry}width = 768", where="x", folder=tmp_path)
    assert registry["a"].base == registry["b"].base
