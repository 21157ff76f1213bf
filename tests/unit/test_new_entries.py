"""What is looked up of a file or folder that is added to the registry, and folders of LoRAs."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scheduler.local.new_entries import check_lora, check_model, entry_for, is_lora_folder, is_one_lora
from storage.errors import BadSettings, InvalidInput
from storage.settings import Settings
from storage.spec.aliases import alias_of, aliases_of, known_as
from storage.spec.lora_facts import lora_facts
from storage.spec.models import Lora
from storage.spec.registry import parse_registry, read_registry
from storage.spec.registry_file import add_entry, add_lora_folder
from storage.spec.registry_watch import RegistryWatch
from storage.spec.safetensors_header import read_header
from tests.safetensors_files import LORA, SD, SD2, SDXL, written


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("Detail Tweaker XL", "detail-tweaker-xl"),
        ("v1.5_fp16", "v1.5_fp16"),
        ("雪", "unnamed"),
        ("--x--", "x"),
        ("a" * 80, "a" * 63),
    ],
)
def test_aliases_are_made_of_names(name: str, alias: str) -> None:
    assert alias_of(name) == alias
    assert Lora(alias=alias, source="x").alias == alias


def test_of_names_that_make_the_same_alias_none_takes_that_of_another(tmp_path: Path) -> None:
    def found(*names: str, taken: Sequence[str] = ()) -> dict[str, str]:
        files = [tmp_path / f"{name}.safetensors" for name in sorted(names)]
        return {file.stem: alias for alias, file in aliases_of(files, taken=taken).items()}

    assert found("Ink") == {"Ink": "ink"}
    two = found("Ink", "ink")
    # Not the other way round, though it comes first.
    assert two["ink"] == "ink"
    assert re.fullmatch("ink-[0-9a-f]{6}", two["Ink"])
    # Whatever is added, each stays what it was, or has an alias that nothing else had.
    three = found("Ink", "ink", "INK", "INK!")
    assert {name: three[name] for name in two} == two
    assert len(set(three.values())) == 4
    assert set(found("\u96ea", "\u6708").values()).isdisjoint({"unnamed", "unnamed-2"})
    assert found("oil", taken=["oil"])["oil"].startswith("oil-")
    long = found("a" * 80 + "1", "a" * 80 + "2").values()
    assert len(set(long)) == 2
    assert {Lora(alias=alias, source="x").alias for alias in long} == set(long)


def test_a_lora_tells_its_base_rank_words_and_licence(tmp_path: Path) -> None:
    plain = lora_facts(read_header(written(tmp_path / "plain.safetensors", LORA)))
    assert plain.words == ["made for SDXL", "rank 8"]
    metadata = {
        "ss_base_model_version": "sd_v1",
        "modelspec.trigger_phrase": "in the style of\nink",
        "modelspec.license": "CC-BY-4.0",
    }
    told = lora_facts(read_header(written(tmp_path / "told.safetensors", LORA, metadata=metadata)))
    licence = ["made for Stable Diffusion 1.x", "rank 8", "trigger words: in the style of ink", "licence: CC-BY-4.0"]
    assert told.words == licence
    tags = {
        "ss_tag_frequency": json.dumps({"1_x": {"cat": 3, "ink": 9}, "2_y": {"cat": 1}}),
        "modelspec.license": "None",
    }
    told = lora_facts(read_header(written(tmp_path / "tags.safetensors", LORA, metadata=tags)))
    assert told.words[-1] == "most frequent tags in its training: ink, cat"
    nonsense = {"ss_tag_frequency": "[1]", "ss_base_model_version": "None"}
    assert lora_facts(read_header(written(tmp_path / "bad.safetensors", LORA, metadata=nonsense))).tags == ()


def test_the_entry_of_a_checkpoint_has_its_size_and_tells_what_it_is(tmp_path: Path) -> None:
    v = SDXL | {"v_pred": (0,), "ztsnr": (0,)}
    file = written(tmp_path / "Noob XL.safetensors", v, metadata={"modelspec.license": "fair-ai"})
    entry = entry_for(str(file), alias=None, is_lora=False)
    assert (entry.table, entry.alias) == ("models", "noob-xl")
    assert entry.keys == {"kind": "diffusers", "source": str(file), "width": 1024, "height": 1024}
    assert entry.facts == ["SDXL", "predicts v", "ends without signal (zero SNR)", "licence: fair-ai"]
    for tensors, numbers, side in ((SD, (), 512), (SD2, (0.3, -0.3, 0.3, -0.3), 768), (SD2, (0.01,) * 4, 512)):
        file = written(tmp_path / f"{side}-{len(numbers)}.safetensors", tensors, numbers=numbers)
        assert entry_for(str(file), alias=None, is_lora=False).keys["width"] == side
    said = written(tmp_path / "said.safetensors", SD, metadata={"modelspec.resolution": "768x512"})
    assert {"width": 768, "height": 512}.items() <= entry_for(str(said), alias="x", is_lora=False).keys.items()


def test_a_folder_tells_its_size_and_licence() -> None:
    entry = entry_for("shipped:shapes", alias=None, is_lora=False)
    assert entry.alias == "shapes"
    assert entry.keys == {"kind": "diffusers", "source": "shipped:shapes", "width": 64, "height": 64}
    assert [fact for fact in entry.facts if fact.startswith("licence: ")]
    hub = entry_for("someone/Some-Model", alias=None, is_lora=False)
    assert (hub.alias, hub.keys) == ("some-model", {"kind": "diffusers", "source": "someone/Some-Model"})
    assert entry_for("someone/ink", alias=None, is_lora=True).table == "loras"


def test_what_has_no_entry_of_its_own_says_where_it_belongs(tmp_path: Path) -> None:
    files: dict[str, tuple[Mapping[str, Sequence[int]], str]] = {
        "net": (
            {"controlnet_cond_embedding.conv_in.weight": (1,)},
            "which has no entry of its own: name it in a model",
        ),
        "vae": ({"decoder.conv_in.weight": (1,), "x": (1,), "y": (1,)}, "--set vae="),
        "flux": ({"double_blocks.0.x": (1,), "b": (1,), "c": (1,)}, "add the folder in Diffusers layout"),
        "inpaint": (SD | {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "it is for inpainting"),
    }
    for name, (tensors, words) in files.items():
        with pytest.raises(InvalidInput, match=words):
            entry_for(str(written(tmp_path / f"{name}.safetensors", tensors)), alias=None, is_lora=False)
    (tmp_path / "old.ckpt").touch()
    with pytest.raises(InvalidInput, match="old.ckpt is pickled.*to_safetensors"):
        entry_for(str(tmp_path / "old.ckpt"), alias=None, is_lora=False)
    (tmp_path / "page.safetensors").write_text("<html>an error page</html>")
    with pytest.raises(InvalidInput, match="no safetensors file that can be read: it is a web page"):
        entry_for(str(tmp_path / "page.safetensors"), alias=None, is_lora=False)
    (tmp_path / "note.txt").touch()
    with pytest.raises(InvalidInput, match="no safetensors file and no folder in Diffusers layout"):
        entry_for(str(tmp_path / "note.txt"), alias=None, is_lora=False)


def test_a_folder_of_sixty_loras_is_registered_at_once_and_followed(tmp_path: Path) -> None:
    folder, file = tmp_path / "loras", tmp_path / "models.toml"
    folder.mkdir()
    for number in range(60):
        written(folder / f"Style {number:02}.safetensors", LORA)
    assert is_lora_folder(str(folder))
    file.write_text('# mine\nbuiltin = true\n[loras.own]\nsource = "loras/Style 07.safetensors"\n')
    registry = add_lora_folder(file, str(folder))
    assert len(registry.loras) == 60
    assert {"own", "style-00", "style-59"} <= registry.loras.keys()
    # It has an entry of its own.
    assert "style-07" not in registry.loras
    assert file.read_text().startswith("# mine\n")
    with pytest.raises(InvalidInput, match="has a folder of LoRAs already"):
        add_lora_folder(file, str(folder))

    settings = Settings(home=tmp_path)
    live = read_registry(settings)
    watch = RegistryWatch(settings, live)
    for _ in range(2):
        watch.look()
    written(folder / "new.safetensors", LORA)
    for _ in range(2):
        watch.look()
    assert "new" in live.loras
    (folder / "new.safetensors").unlink()
    for _ in range(2):
        watch.look()
    assert "new" not in live.loras


def test_a_folder_of_loras_that_is_not_there_or_is_none_is_said(tmp_path: Path) -> None:
    for value, words in (
        ('"gone"', "folder: there is no folder"),
        ("4", "must be a folder"),
        ('" "', "must be a folder"),
    ):
        with pytest.raises(BadSettings, match=words):
            parse_registry(f"builtin = true\n[loras]\nfolder = {value}", where="x", folder=tmp_path)
    # As an alias it is one like any other.
    text = 'builtin = true\n[loras.folder]\nsource = "a/b"'
    assert list(parse_registry(text, where="x", folder=tmp_path).loras) == ["folder"]
    (tmp_path / "mixed").mkdir()
    written(tmp_path / "mixed" / "a.safetensors", LORA)
    written(tmp_path / "mixed" / "b.safetensors", SD)
    assert not is_lora_folder(str(tmp_path / "mixed"))


def test_what_is_said_to_be_a_lora_and_is_none_is_refused(tmp_path: Path) -> None:
    for name, tensors, words in (
        ("m", SD, "m.safetensors is a checkpoint for Stable Diffusion 1.x, and no LoRA: leave --lora out"),
        ("vae", {"decoder.conv_in.weight": (1,), "x": (1,), "y": (1,)}, "vae.safetensors is a VAE"),
        ("word", {"emb_params": (4, 768)}, "word.safetensors is an embedding"),
    ):
        file = written(tmp_path / f"{name}.safetensors", tensors)
        with pytest.raises(InvalidInput, match=words):
            entry_for(str(file), alias=None, is_lora=True)
    other = written(tmp_path / "oft.safetensors", {"lora_unet_mid_block_attentions_0_proj_in.oft_blocks": (2, 2, 2)})
    with pytest.raises(InvalidInput, match="oft.safetensors cannot be used: it holds an OFT"):
        check_lora(entry_for(str(other), alias=None, is_lora=False).keys)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="empty cannot be used: there is no safetensors file in it"):
        check_lora(entry_for(str(tmp_path / "empty"), alias=None, is_lora=True).keys)


def test_a_part_of_a_model_and_averaged_weights_are_told(tmp_path: Path) -> None:
    part = written(tmp_path / "model-00001-of-00002.safetensors", SD)
    with pytest.raises(InvalidInput, match="it is part 1 of 2 of a model; the farm reads models that are whole"):
        entry_for(str(part), alias=None, is_lora=False)
    averaged = written(tmp_path / "ema.safetensors", SD | {"model_ema.decay": (), "model_ema.diffusion_modelx": (1,)})
    facts = entry_for(str(averaged), alias=None, is_lora=False).facts
    assert facts == ["Stable Diffusion 1.x", "its averaged weights (EMA) are not used"]


def test_a_folder_of_one_lora_may_be_one_entry(tmp_path: Path) -> None:
    folder = tmp_path / "ink-lora"
    folder.mkdir()
    written(folder / "some.safetensors", LORA)
    assert is_one_lora(str(folder), {})
    written(folder / "other.safetensors", LORA)
    assert not is_one_lora(str(folder), {})
    assert is_one_lora(str(folder), {"weight_name": "other.safetensors"})
    written(folder / "pytorch_lora_weights.safetensors", LORA)
    assert is_one_lora(str(folder), {})


def test_an_entry_does_not_take_the_alias_of_a_file_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    written(tmp_path / "loras" / "ink.safetensors", LORA)
    other = written(tmp_path / "ink.safetensors", LORA)
    file = tmp_path / "models.toml"
    add_lora_folder(file, str(tmp_path / "loras"))
    with pytest.raises(InvalidInput, match="ink is .*loras/ink.safetensors of the folder of LoRAs"):
        add_entry(file, "loras", "ink", {"source": str(other)})
    # Its own file may have an entry, with more keys.
    added = add_entry(
        file, "loras", "ink", {"source": str(tmp_path / "loras" / "ink.safetensors"), "models": ["shapes"]}
    )
    assert added.loras["ink"].models == ("shapes",)


@pytest.mark.parametrize(
    ("name", "alias"),
    [("ink", "ink"), ("INK", "ink"), ("Detail Tweaker XL", "detail-tweaker-xl"), ("unknown One", "unknown one")],
)
def test_what_other_programs_call_by_its_file_is_found(name: str, alias: str) -> None:
    assert known_as(name, {"ink", "detail-tweaker-xl"}) == alias


def test_what_the_door_would_refuse_is_not_added(tmp_path: Path) -> None:
    file = written(tmp_path / "m.safetensors", {name: shape for name, shape in SD.items() if "first" not in name})
    entry = entry_for(str(file), alias=None, is_lora=False)
    with pytest.raises(InvalidInput, match="m.safetensors cannot be loaded: it has no VAE; name one"):
        check_model(entry.alias, entry.keys)
    vae = written(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": (1,), "x": (1,), "y": (1,)})
    check_model(entry.alias, {**entry.keys, "vae": str(vae)})
    empty = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (0, 4)}
    file = written(tmp_path / "empty.safetensors", empty)
    with pytest.raises(InvalidInput, match="matrices of rank 0"):
        entry_for(str(file), alias=None, is_lora=False)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model."])
def test_a_checkpoint_whose_unet_lacks_its_prefix_is_told_by_that(tmp_path: Path, prefix: str) -> None:
    bare = {name.replace("model.diffusion_model.", prefix): shape for name, shape in SD.items()}
    with pytest.raises(InvalidInput, match="the names of its UNet do not begin with model.diffusion_model"):
        entry_for(str(written(tmp_path / "m.safetensors", bare)), alias=None, is_lora=False)


def test_zero_snr_that_counts_for_nothing_is_told(tmp_path: Path) -> None:
    file = written(tmp_path / "m.safetensors", SDXL | {"ztsnr": (0,)})
    assert "its ztsnr counts only where it predicts v" in entry_for(str(file), alias=None, is_lora=False).facts[-1]


def test_folders_that_are_nothing_say_why(tmp_path: Path) -> None:
    for name, index in (("list", "[1, 2]"), ("number", '{"_class_name": 5}'), ("cut", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(index)
        with pytest.raises(InvalidInput, match="model_index.json names no class of a pipeline"):
            entry_for(str(tmp_path / name), alias=None, is_lora=False)
    (tmp_path / "loras").mkdir()
    written(tmp_path / "loras" / "a.safetensors", LORA)
    (tmp_path / "loras" / "b.safetensors").touch()
    with pytest.raises(InvalidInput, match="nor one of LoRAs alone: b.safetensors is damaged"):
        entry_for(str(tmp_path / "loras"), alias=None, is_lora=False)


_TEXT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
_KOHYA = f"lora_unet_{_TEXT.replace('.', '_')}_to_k"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {f"{_KOHYA}.hada_w1_a": (320, 4), f"{_KOHYA}.hada_w1_b": (4, 768)},
            ["made for Stable Diffusion 1.x", "a LoHa", "rank 4"],
        ),
        ({f"{_KOHYA}.lokr_w1": (8, 8), f"{_KOHYA}.lokr_w2_b": (16, 96)}, ["a LoKr", "rank 16"]),
        (
            {f"{_KOHYA}.lora_down.weight": (4, 1024), f"{_KOHYA}.dora_scale": (320, 1)},
            ["made for Stable Diffusion 2.x", "a DoRA, whose scale must be 1", "rank 4"],
        ),
        (
            {f"unet.{_TEXT}.processor.to_k_lora.down.weight": (4, 768)},
            ["made for Stable Diffusion 1.x", "rank 4"],
        ),
        ({f"base_model.model.{_TEXT}.to_k.lora_A.weight": (8, 2048)}, ["made for SDXL", "rank 8"]),
        ({"lora_unet_joint_blocks_0_x.lora_down.weight": (4, 8)}, ["made for Stable Diffusion 3", "rank 4"]),
        ({"lora_te_text_model_x.lora_down.weight": (4, 8), "lora_te_y.lora_down.weight": (8, 8)}, ["rank 4 to 8"]),
    ],
    ids=range(7),
)
def test_loras_of_every_make_tell_what_they_are(
    tmp_path: Path, tensors: Mapping[str, Sequence[int]], words: Sequence[str]
) -> None:
    assert lora_facts(read_header(written(tmp_path / "one.safetensors", tensors))).words == words


_UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_controlnet": (1,), "input_blocks.1.0.in_layers.2.up": (8, 4)}, "it is a Control-LoRA"),
        ({"task_embedding": (6, 8), "control_add_embedding.x": (1,), "controlnet_cond_embedding.y": (1,)}, "union"),
        ({"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_q_lora.down.weight": (4, 8)}, "is an IP-Adapter"),
        ({"adapter.body.0.in_conv.weight": (8, 8, 1, 1)}, "is a T2I-Adapter"),
        ({"model.0.weight": (8, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (8, 8, 3, 3)}, "is an upscaler"),
        ({"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (8, 8)}, "is a motion module"),
        (
            {"unet.conv_in.weight": (8, 4, 3, 3), "vae.encoder.conv_in.weight": (8, 3, 3, 3)},
            "a whole model by Diffusers' names",
        ),
        ({"model.layers.0.self_attn.q_proj.weight": (8, 8), "model.embed_tokens.weight": (9, 8)}, "is a text encoder"),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8), "shared.weight": (9, 8)}, "is a text encoder"),
        ({"double_blocks.0.img_attn.qkv.weight": (8, 8), "img_in.weight": (8, 8)}, "is a denoiser"),
        ({f"{_UNET}transformer_blocks.0.attn.to_q.weight": (8, 8)}, "it is Qwen-Image or another transformer"),
        ({f"{_UNET}something.new.weight": (8, 8)}, "reads in Diffusers layout only"),
        ({}, "there is nothing in it but its header"),
    ],
    ids=range(13),
)
def test_what_people_have_beside_is_called_what_it_is(tensors: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        entry_for(str(written(tmp_path / "m.safetensors", tensors)), alias=None, is_lora=False)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{_KOHYA}.lora_down.weight": (4, 320)}, "of the two matrices of a layer one is missing"),
        (
            {"unet.x.lora_A.weight": (4, 8), "unet.x.lora_B.weight": (8, 4), "unet.y.lora_B.weight": (8, 4)},
            "unet.y.lora_B",
        ),
        (
            {"transformer.x_embedder.lora_A.weight": (4, 128), "transformer.x_embedder.lora_B.weight": (64, 4)},
            "it is a Control LoRA of FLUX.1",
        ),
    ],
    ids=range(3),
)
def test_a_lora_that_no_model_takes_is_not_added(tensors: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_lora({"source": str(written(tmp_path / "l.safetensors", tensors))})
