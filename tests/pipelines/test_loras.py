"""LoRA files: what they hold is applied, exactly, or the LoRA is refused by name; and a refused one leaves no trace."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model

from storage.errors import OutOfMemory, RenderFailed
from storage.spec.models import Lora
from storage.spec.picture import Spec
from tests.pipelines import kohya
from tests.pipelines.conftest import Models
from tests.pipelines.kohya import Kind
from tests.pipelines.pixels import largest_difference, pixels


class Tried:
    """A model with LoRAs, and its twin without any, whose own weights are changed by hand."""

    def __init__(self, models: Models, alias: str) -> None:
        self.models, self.alias = models, alias
        self.model = models.load(alias)
        self.twin: Any = models.load(alias)
        self.known: dict[str, Lora] = {}
        loaded: Any = self.model
        loaded.adapters._known = self.known
        self.plain = self.drawn()

    def add(self, **sources: Path) -> None:
        self.known |= {alias: Lora(alias=alias, source=str(source)) for alias, source in sources.items()}

    def drawn(self, **loras: float) -> Any:
        return pixels(self.model, [self.spec(**loras)])

    def spec(self, **loras: float) -> Spec:
        [spec] = self.models.specs(self.alias, 1, num_inference_steps=1, guidance_scale=40.0)
        return spec.model_copy(update={"loras": loras or None})

    def merged(self, *files: Path, scale: float = 1.0) -> Any:
        parts = [part for part in self.twin.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
        try:
            for file in files:
                kohya.merge(self.twin.pipeline, file, scale)
            return pixels(self.twin, [self.spec()])
        finally:
            for part, weights in zip(parts, before, strict=True):
                part.load_state_dict(weights)
            self.twin._prompts.forget()


@pytest.fixture(scope="module")
def both(models: Models) -> dict[str, Tried]:
    return {alias: Tried(models, alias) for alias in ("sd", "sdxl")}


@pytest.fixture
def sd(both: dict[str, Tried]) -> Tried:
    return both["sd"]


@pytest.mark.parametrize(
    "kind",
    [
        Kind(),
        Kind(alphas=()),
        Kind(alphas=(1.0, 3.0, 2.5)),
        Kind(ranks=(2, 4, 3)),
        Kind(ranks=(2, 4), alphas=(8.0, 1.0, 1.0)),
        Kind(text=("q_proj", "v_proj")),
        Kind(text=("fc2",)),
        Kind(text=("out_proj", "fc1"), alphas=(1.0, 3.0)),
        Kind(unet=()),
        Kind(unet=(), text=("k_proj", "out_proj")),
        Kind(text=()),
        Kind(magnitudes=True),
        Kind(magnitudes=True, unet=(), alphas=(1.0, 3.0)),
        Kind(unet=(*kohya.CONVS, *kohya.OUTSIDE), alphas=(1.0, 3.0)),
        Kind(unet=kohya.CONVS, method="tucker"),
        Kind(unet=kohya.CONVS, method="loha", alphas=(1.0, 3.0)),
        Kind(unet=kohya.CONVS, method="lokr", alphas=(1.0, 3.0)),
        Kind(unet=kohya.CONVS, method="lokr-whole", alphas=(1.0, 3.0)),
        Kind(method="loha", magnitudes=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_what_a_file_of_kohyas_trainer_holds_is_applied(
    both: dict[str, Tried], tmp_path: Path, alias: str, kind: Kind
) -> None:
    tried, name = both[alias], hashlib.sha256(str(kind).encode()).hexdigest()[:8]
    file = kohya.write(tmp_path / "one.safetensors", tried.twin.pipeline, kind)
    tried.add(**{name: file})
    scale = 1.0 if kind.magnitudes else 0.6
    changed = tried.drawn(**{name: scale})
    assert largest_difference(changed, tried.plain) > 5
    assert largest_difference(changed, tried.merged(file, scale=scale)) <= 1
    assert (tried.drawn() == tried.plain).all()


@pytest.mark.parametrize("alias", ["sd", "sdxl"])
def test_two_files_are_applied_together(both: dict[str, Tried], tmp_path: Path, alias: str) -> None:
    tried = both[alias]
    one = kohya.write(tmp_path / "one.safetensors", tried.twin.pipeline, Kind(text=("q_proj", "v_proj")))
    two = kohya.write(tmp_path / "two.safetensors", tried.twin.pipeline, Kind(unet=("to_q",)), seed=1)
    tried.add(one=one, two=two)
    assert largest_difference(tried.drawn(one=1.0, two=1.0), tried.merged(one, two)) <= 1
    assert largest_difference(tried.drawn(two=1.0), tried.merged(two)) <= 1


def test_blocks_by_the_names_of_the_original_code_are_those_of_diffusers(
    both: dict[str, Tried], tmp_path: Path
) -> None:
    tried, block = both["sdxl"], "lora_unet_down_blocks_0_attentions_0"
    file = kohya.write(tmp_path / "one.safetensors", tried.twin.pipeline, Kind(unet=("to_q", "to_v")))
    tensors = safetensors.torch.load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith((block, "lora_te"))}
    safetensors.torch.save_file(kept, file)
    original = {name.replace(block, "lora_unet_input_blocks_1_1"): tensor for name, tensor in kept.items()}
    safetensors.torch.save_file(original, tmp_path / "original.safetensors")
    tried.add(original=tmp_path / "original.safetensors")
    assert largest_difference(tried.drawn(original=1.0), tried.merged(file)) <= 1


def test_what_peft_saves_by_itself_is_applied_as_strongly_as_it_says(sd: Tried, tmp_path: Path) -> None:
    unet: Any = copy.deepcopy(sd.twin.pipeline.unet)
    options = {"r": 4, "lora_alpha": 6, "rank_pattern": {"attn1.to_k": 2}, "alpha_pattern": {"attn1.to_k": 3}}
    made = get_peft_model(
        unet, LoraConfig(target_modules=["to_q", "to_k"], init_lora_weights=False, use_rslora=True, **options)
    )
    made.save_pretrained(tmp_path)
    sd.add(peft=tmp_path)
    changed = sd.drawn(peft=1.0)
    assert largest_difference(changed, sd.plain) > 1
    whole, sd.twin.pipeline.unet = sd.twin.pipeline.unet, made.merge_and_unload()
    try:
        assert largest_difference(changed, pixels(sd.twin, [sd.spec()])) <= 1
    finally:
        sd.twin.pipeline.unet = whole


def test_memory_holds_the_loras_that_were_used_last(sd: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"one{number}": kohya.write(
            tmp_path / f"{number}.safetensors", sd.twin.pipeline, Kind(unet=("to_q",)), seed=number
        )
        for number in range(5)
    }
    sd.add(**files)
    first = sd.drawn(one0=1.0)
    monkeypatch.setattr("worker.rendering.lora_set._MOST", 2)
    adapters: Any = sd.model.adapters  # type: ignore[attr-defined]
    adapters._shelf._kept.clear()
    for alias in files:
        sd.drawn(**{alias: 1.0})
    assert list(adapters._shelf._kept) == ["one3", "one4"]
    size = adapters._shelf._kept["one4"].bytes
    monkeypatch.setattr("worker.rendering.lora_set._MOST_BYTES", size)
    assert (sd.drawn(one0=1.0) == first).all()
    assert list(adapters._shelf._kept) == ["one0"]
    # What is in use together is there, however much it is.
    sd.drawn(one1=1.0, one2=1.0)
    assert list(adapters._shelf._kept) == ["one1", "one2"]


def test_pefts_own_alphas_are_applied(sd: Tried, weights: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(weights / "ink" / "pytorch_lora_weights.safetensors")
    config = json.dumps({"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"]})
    safetensors.torch.save_file(tensors, tmp_path / "half.safetensors", metadata={"lora_adapter_metadata": config})
    sd.add(ink=weights / "ink", half=tmp_path / "half.safetensors")
    assert largest_difference(sd.drawn(half=1.0), sd.drawn(ink=0.5)) <= 1
    assert largest_difference(sd.drawn(half=1.0), sd.drawn(ink=1.0)) > 1


def test_any_alias_can_be_that_of_a_lora(sd: Tried, weights: Path) -> None:
    sd.add(ink=weights / "ink", ink_v1=weights / "oil")
    ink, oil = sd.drawn(ink=1.0), sd.drawn(ink_v1=1.0)
    assert largest_difference(ink, oil) > 1
    for alias in ("train", "pop", "float", "ink.v1", "default"):
        sd.add(**{alias: weights / "ink"})
        assert (sd.drawn(**{alias: 1.0}) == ink).all(), alias


# -- refused ---------------------------------------------------------------------------------------------------


def _with(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file)
    return file


_Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
REFUSED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "a module of another model": (
        lambda file: file.update(
            {name.replace("mid_block", "down_blocks_7"): file.pop(name) for name in list(file) if _Q in name}
        ),
        "changes unet.down_blocks.7.attentions.0.*which this model does not have",
    ),
    "another width": (
        lambda file: file.update({f"{_Q}.lora_down.weight": torch.zeros(4, 99)}),
        "unet.mid_block.*to_q turns 99 numbers into",
    ),
    "a second text encoder": (
        lambda file: file.update(
            {name.replace("lora_te_", "lora_te2_"): tensor.clone() for name, tensor in file.items() if "te_" in name}
        ),
        "it holds lora_te2_text_model_encoder_layers_0.* and .* more, for which this model has no place",
    ),
    "something beside": (
        lambda file: file.update({"bundle_emb.cat.string_to_param.*": torch.zeros(2)}),
        "bundle_emb|renamed|lora",
    ),
    "a kernel in a linear layer": (
        lambda file: file.update({f"{_Q}.lora_mid.weight": torch.zeros(4, 4, 3, 3)}),
        "to_q, whose weights are 64×64, cannot be changed by down 4×64, mid 4×4×3×3, up 64×4",
    ),
    "no second matrix": (
        lambda file: file.pop(f"{_Q}.lora_up.weight"),
        "unet.mid_block.*to_q: one of its two matrices is missing",
    ),
    "magnitudes of inputs": (
        lambda file: file.update(
            {
                f"{name.split('.')[0]}.dora_scale": torch.ones(1, tensor.shape[1])
                for name, tensor in file.items()
                if "down" in name[-12:]
            }
        ),
        "DoRA magnitudes \\(dora_scale\\) are those of inputs",
    ),
    "LoRA and LoHa at once": (
        lambda file: file.update({f"{_Q}.hada_w1_a": torch.ones(64, 4)}),
        "to_q: hada_w1_b, hada_w2_a, hada_w2_b is missing",
    ),
    "a layer that is changed twice": (
        lambda file: file.update(
            {
                f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.{end}": torch.zeros(64, 64)
                for end in ("lora_A.weight", "lora_B.weight")
            }
        ),
        "it changes unet.mid_block.*to_q twice",
    ),
    "a LoRA of a norm": (
        lambda file: file.update(
            {f"lora_unet_conv_norm_out.lora_{side}.weight": torch.zeros(4, 4) for side in ("down", "up")}
        ),
        "unet.conv_norm_out is a GroupNorm, which no LoRA can change here",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_applied_is_refused_by_name_and_leaves_no_trace(
    sd: Tried, tmp_path: Path, weights: Path, kind: str
) -> None:
    change, reason = REFUSED[kind]
    file = kohya.write(tmp_path / "one.safetensors", sd.twin.pipeline)
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file)
    sd.add(refused=file, ink=weights / "ink")
    ink = sd.drawn(ink=1.0)
    for _ in range(2):
        with pytest.raises(RenderFailed, match=f"loras: refused .*cannot be loaded: .*(?:{reason})"):
            sd.drawn(refused=1.0, ink=1.0)
        assert (sd.drawn() == sd.plain).all()
    assert (sd.drawn(ink=1.0) == ink).all()


def test_a_doras_scale_is_1(sd: Tried, tmp_path: Path) -> None:
    sd.add(dora=kohya.write(tmp_path / "one.safetensors", sd.twin.pipeline, Kind(magnitudes=True)))
    with pytest.raises(RenderFailed, match=r"dora is a DoRA, .*scale must be 1 \(given: 0.5\)"):
        sd.drawn(dora=0.5)
    assert (sd.drawn() == sd.plain).all()


def test_of_several_files_one_must_be_named(sd: Tried, weights: Path, tmp_path: Path) -> None:
    data = (weights / "ink" / "pytorch_lora_weights.safetensors").read_bytes()
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(data)
    sd.add(folder=tmp_path)
    with pytest.raises(RenderFailed, match="2 files: a.safetensors, b.safetensors; set weight_name to one of them"):
        sd.drawn(folder=1.0)
    sd.known["folder"] = Lora(alias="folder", source=str(tmp_path), weight_name="b.safetensors")
    assert largest_difference(sd.drawn(folder=1.0), sd.plain) > 1


def test_memory_that_runs_out_while_a_lora_loads_is_no_fault_of_the_picture(
    sd: Tried, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    sd.add(late=weights / "ink")
    with monkeypatch.context() as patch:
        patch.setattr("worker.rendering.lora_set.change", full)
        with pytest.raises(OutOfMemory):
            sd.drawn(late=1.0)
    assert (sd.drawn() == sd.plain).all()
    assert largest_difference(sd.drawn(late=1.0), sd.plain) > 1


def test_alphas_tell_two_files_apart_in_the_recipe(sd: Tried, tmp_path: Path) -> None:
    for name, alpha in (("weak", 1.0), ("strong", 4.0)):
        sd.add(**{name: kohya.write(tmp_path / f"{name}.safetensors", sd.twin.pipeline, Kind(alphas=(alpha,)))})
    recipe = sd.model.render([sd.spec(weak=1.0, strong=1.0)], lambda: None).recipe["loras"]
    assert recipe["weak"]["weights"] != recipe["strong"]["weights"]
    for name in recipe:
        # Galleries know a LoRA by what follows its header.
        file = (tmp_path / f"{name}.safetensors").read_bytes()
        assert recipe[name]["past_header"] == hashlib.sha256(file[8 + int.from_bytes(file[:8], "little") :]).hexdigest()
