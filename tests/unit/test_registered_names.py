"""What a picture's file calls by other names or by hashes is found in this registry."""

import hashlib
import json
from pathlib import Path

import pytest

from storage.spec.picture import Spec
from tests.safetensors_files import LORA, SD, written
from tests.unit.test_picture_files import SPEC, order_like, png
from worker.rendering.simulated import draw
from worker.serving.encode import to_png


def test_loras_are_known_by_name_file_and_hash_and_others_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trainer writes the hash that galleries know a LoRA by into its header."""
    written(tmp_path / "third.safetensors", LORA, metadata={"sshs_model_hash": f"0A1B2C3D4E5F{'0' * 52}"})
    entries = {"ink": "someone/ink", "oil": "Old_Oil.safetensors", "third": "third.safetensors"}
    tables = [f'[loras.{alias}]\nsource = "{source}"' for alias, source in entries.items()]
    (tmp_path / "models.toml").write_text("\n".join(['[models.tiny]\nkind = "simulated"', *tables]))
    tags = "<lora:INK:0.5> <lora:old_oil:0.25> <lora:renamed:2> <lora:gone:1>"
    hashes = 'Lora hashes: "INK: 111111111111, renamed: 0a1b2c3d4e5f, gone: 0a1b"'
    path = png(tmp_path / "a.png", parameters=f"a {tags}\nSteps: 20, Sampler: Euler, Seed: 5, {hashes}")
    [found] = order_like(tmp_path, path)
    assert found["loras"] == {"ink": 0.5, "oil": 0.25, "third": 2.0}
    said = capsys.readouterr().err
    assert "'gone' of the picture is left out: it is not registered here (`farm models add`)" in said
    assert said.count("is left out") == 1


def hashed(folder: Path, name: str, number: float) -> str:
    """Write a checkpoint of these numbers; its SHA-256."""
    tensors = {**SD, "first_stage_model.x": (4,)}
    return hashlib.sha256(written(folder / name, tensors, numbers=[number] * 4).read_bytes()).hexdigest()


def test_a_checkpoint_and_its_vae_are_known_by_their_hashes_whatever_they_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dream, other, vae = (hashed(tmp_path, f"{name}.safetensors", number) for number, name in enumerate("dov"))
    entries = {
        "renamed": 'source = "d.safetensors"',
        "renamed-vae": 'source = "d.safetensors"\nvae = "v.safetensors"',
        "dream": 'source = "o.safetensors"',
    }
    tables = [f'[models.{alias}]\nkind = "diffusers"\n{entry}' for alias, entry in entries.items()]
    (tmp_path / "models.toml").write_text("\n".join(tables))

    def taken(settings: str) -> tuple[str | None, str]:
        path = png(tmp_path / "a.png", parameters=f"a\nSteps: 20, Sampler: Euler, Seed: 5, {settings}")
        [found] = order_like(tmp_path, path)
        return found.get("model"), capsys.readouterr().err

    model, said = taken(f"Model hash: {dream[:10]}, Model: gone")
    assert model == "renamed"
    assert "not registered" not in said
    assert "Model hash" not in said
    assert taken(f"Model hash: {dream[:10]}")[0] == "renamed"
    model, said = taken(f"Model hash: {dream[:10].upper()}, Model: gone, VAE hash: {vae[:10]}, VAE: x.vae.pt")
    assert model == "renamed-vae"
    assert "VAE" not in said
    assert "vae: " not in said
    model, said = taken(f"Model hash: {dream[:10]}, Model: Dream")
    assert model == "renamed"
    assert f"model: dream is another file than the picture's, whose hash {dream[:10]} renamed has" in said
    model, said = taken(f"Model hash: {other[:10]}, Model: dream, VAE hash: {vae[:10]}")
    assert model == "dream"
    assert f"vae: the picture has one of the hash {vae[:10]}, which renamed-vae has; dream has its own" in said
    model, said = taken("Model hash: 0123456789, Model: dream")
    assert model == "dream"
    assert "model: dream is another file than the picture's: none that is registered here has its hash" in said
    noted = json.loads((tmp_path / "file_hashes.json").read_text())
    assert set(noted.values()) == {dream, other, vae}
    # As the web UI told files apart at first: by 64 KiB after the first MiB.
    file = written(tmp_path / "d.safetensors", {**SD, "first_stage_model.y": (300_000,)})
    old = hashlib.sha256(file.read_bytes()[1 << 20 : (1 << 20) + (1 << 16)]).hexdigest()[:8]
    assert taken(f"Model hash: {old}, Model: gone")[0] == "renamed"


def test_a_lora_of_one_name_and_another_hash_is_the_one_with_the_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("ink", "older")):
        written(tmp_path / f"{name}.safetensors", {**LORA, "x.lora_down.weight": (4,)}, numbers=[number] * 4)
    tables = [f'[loras.{alias}]\nsource = "{alias}.safetensors"' for alias in ("ink", "older")]
    (tmp_path / "models.toml").write_text("\n".join(['[models.tiny]\nkind = "simulated"', *tables]))
    content = (tmp_path / "older.safetensors").read_bytes()
    past_header = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    for digits in (past_header[:12], hashlib.sha256(content).hexdigest()[:10]):
        text = f'a <lora:ink:0.5>\nSteps: 20, Sampler: Euler, Seed: 5, Lora hashes: "ink: {digits}"'
        [found] = order_like(tmp_path, png(tmp_path / "a.png", parameters=text))
        assert found["loras"] == {"older": 0.5}
        said = capsys.readouterr().err
        assert f"loras: ink is another file than the picture's, whose hash is {digits}: older has it" in said


def test_textual_inversions_are_known_by_their_hashes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedding = written(tmp_path / "mine.safetensors", {"emb_params": (2, 768)})
    digits = hashlib.sha256(embedding.read_bytes()).hexdigest()
    entry = '[models.tiny]\nkind = "simulated"\n[embeddings.mine]\nsource = "mine.safetensors"'
    (tmp_path / "models.toml").write_text(entry)
    hashes = f'TI hashes: "EasyNegative: {digits[:12]}, gone: 0123456789ab"'
    text = f"gone easynegatives\nNegative prompt: easynegative, x\nSteps: 20, Sampler: Euler, Seed: 5, {hashes}"
    [found] = order_like(tmp_path, png(tmp_path / "a.png", parameters=text))
    assert (found["prompt"], found["negative_prompt"]) == ("gone easynegatives", "mine, x")
    said = capsys.readouterr().err
    assert "embeddings: 'gone' of the picture is not registered here, and read as words" in said
    assert "TI hashes" not in said


def test_what_another_farm_calls_otherwise_is_known_by_the_hashes_in_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of the farm's own; a LoRA whose header states the hash of the file that it was converted from."""
    lora = written(tmp_path / "x.safetensors", LORA, metadata={"sshs_model_hash": "0" * 64})
    content = lora.read_bytes()
    past_header = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    dream = hashed(tmp_path, "d.safetensors", 1)
    tables = ['[models.renamed]\nkind = "diffusers"\nsource = "d.safetensors"', '[loras.x]\nsource = "x.safetensors"']
    (tmp_path / "models.toml").write_text("\n".join(tables))
    spec = Spec(**{**SPEC.fields(), "model": "dream", "loras": {"ink": 0.5, "gone": 1.0}, "version": SPEC.version})
    made_with = {"sha256": dream, "loras": {"ink": {"past_header": past_header}, "gone": {"past_header": "ab" * 32}}}
    (tmp_path / "a.png").write_bytes(to_png(draw(spec), spec, made_with))
    [found] = order_like(tmp_path, tmp_path / "a.png")
    assert (found["model"], found["loras"]) == ("renamed", {"x": 0.5})
    assert "'gone' of the picture is left out: it is not registered here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Shapes", "SHAPES.safetensors"])
def test_a_model_is_known_in_any_case(tmp_path: Path, name: str) -> None:
    path = png(tmp_path / "a.png", parameters=f"a\nSteps: 20, Sampler: Euler, Seed: 5, Model: {name}")
    [found] = order_like(tmp_path, path)
    assert found["model"] == "shapes"
