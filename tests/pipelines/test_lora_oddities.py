"""LoRA files of odd numbers and odd names: applied as they are, or refused with what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from storage.errors import RenderFailed
from tests.pipelines import kohya
from tests.pipelines.conftest import Models
from tests.pipelines.kohya import Kind
from tests.pipelines.pixels import largest_difference
from tests.pipelines.test_loras import Tried

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sd(models: Models) -> Tried:
    return Tried(models, "sd")


def written(sd: Tried, file: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Write a file of kohya's trainer, and then what becomes of its tensors."""
    kohya.write(file, sd.twin.pipeline, Kind())
    safetensors.torch.save_file(change(safetensors.torch.load_file(file)), file)
    return file


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64], ids=str)
def test_numbers_of_any_precision_are_applied(sd: Tried, tmp_path: Path, dtype: torch.dtype) -> None:
    file = written(sd, tmp_path / "one.safetensors", lambda tensors: cast(tensors, dtype))
    same = written(sd, tmp_path / "same.safetensors", lambda tensors: cast(cast(tensors, dtype), torch.float32))
    sd.add(**{f"in-{dtype}".replace("torch.", "").replace("_", "-"): file})
    alias = list(sd.known)[-1]
    drawn = sd.drawn(**{alias: 0.6})
    assert largest_difference(drawn, sd.plain) > 5
    assert largest_difference(drawn, sd.merged(same, scale=0.6)) <= 1


@pytest.mark.parametrize("rank", [1, 256])
def test_the_smallest_rank_and_one_larger_than_the_layers_are_applied(sd: Tried, tmp_path: Path, rank: int) -> None:
    kind = Kind(ranks=(rank,), alphas=(rank / 8,), text=("q_proj",))
    sd.add(**{f"rank{rank}": kohya.write(tmp_path / "one.safetensors", sd.twin.pipeline, kind)})
    assert largest_difference(sd.drawn(**{f"rank{rank}": 0.5}), sd.merged(tmp_path / "one.safetensors", scale=0.5)) <= 1


def test_a_scale_below_zero_turns_it_round_and_none_changes_nothing(sd: Tried, tmp_path: Path) -> None:
    file = kohya.write(tmp_path / "one.safetensors", sd.twin.pipeline, Kind())
    sd.add(turned=file)
    drawn = sd.drawn(turned=-0.7)
    assert largest_difference(drawn, sd.plain) > 5
    assert largest_difference(drawn, sd.merged(file, scale=-0.7)) <= 1
    assert (sd.drawn(turned=0.0) == sd.plain).all()


def _with(**more: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


def _first(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    """Change the first tensor whose name ends so."""

    def changed(tensors: Tensors) -> Tensors:
        name = next(name for name in sorted(tensors) if name.endswith(ending))
        return {**tensors, name: change(tensors[name])}

    return changed


def _twice(tensors: Tensors) -> Tensors:
    """Name one layer in PEFT's way as well."""
    base = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    pair = {f"{base}.lora_A.weight": tensors[f"{key}.lora_down.weight"].clone()}
    return {**tensors, **pair, f"{base}.lora_B.weight": tensors[f"{key}.lora_up.weight"].clone()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _first(".lora_down.weight", lambda tensor: tensor[:0].clone()),
            r"there is nothing in .*lora_down.*\(rank 0\)",
        ),
        (_first(".alpha", lambda tensor: tensor * torch.nan), "alpha is no number, but 1: "),
        (_first(".alpha", lambda tensor: tensor * torch.inf), "alpha is no number, but 1: "),
        (_first(".alpha", lambda _: torch.ones(3)), "alpha is no number, but 3: "),
        (
            _first(".lora_up.weight", lambda tensor: tensor.to(torch.int8)),
            r"lora_up.weight has whole numbers \(int8\): it is quantized",
        ),
        (_twice, "attn1.to_q twice"),
        (_with(lora_unet_mid_block_attentions_9_proj_in__lora_down__weight=torch.ones(2, 2)), "attentions_9"),
        (_with(lora_te_text_model_encoder_layers_99_mlp_fc1__lora_up__weight=torch.ones(2, 2)), "layers_99"),
        (_with(transformer__single_transformer_blocks__0__attn__to_q__lora_A__weight=torch.ones(2, 2)), "transformer"),
        (_with(note=torch.ones(1)), "it holds note, for which this model has no place"),
        (_with(lora_unet_mid_block_attentions_0_proj_in__lora_left__weight=torch.ones(2, 2)), "lora_left"),
    ],
    ids=range(11),
)
def test_what_cannot_be_applied_is_refused_and_leaves_no_trace(
    sd: Tried, tmp_path: Path, change: Callable[[Tensors], Tensors], words: str
) -> None:
    sd.known.clear()
    alias = f"odd-{tmp_path.name[-8:]}".lower().strip("-_")
    sd.add(**{alias: written(sd, tmp_path / "one.safetensors", change)})
    with pytest.raises(RenderFailed, match=f"loras: {alias} .*cannot be loaded: .*{words}"):
        sd.drawn(**{alias: 1.0})
    assert (sd.drawn() == sd.plain).all()


def test_a_file_that_is_another_now_is_read_again_and_one_that_is_gone_is_not(sd: Tried, tmp_path: Path) -> None:
    file = kohya.write(tmp_path / "one.safetensors", sd.twin.pipeline, Kind(unet=("to_q",)))
    sd.add(trained=file)
    before = sd.drawn(trained=1.0)
    other = kohya.write(tmp_path / "other.safetensors", sd.twin.pipeline, Kind(unet=("to_q",)), seed=5)
    other.replace(file)
    after = sd.drawn(trained=1.0)
    assert largest_difference(after, before) > 5
    # The text encoder's part, too.
    assert largest_difference(after, sd.merged(file)) <= 1
    file.unlink()
    assert (sd.drawn(trained=1.0) == after).all()
