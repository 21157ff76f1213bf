"""The aliases of LoRAs whose files other programs name in their pictures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_json_of_other_tools import LORA, METADATA, graph
from tests.unit.test_pictures_of_others import FOOOCUS, SWARM, read


def lora_file(kind: str, name: str) -> dict[str, str]:
    """Return the texts of a picture of this program that was drawn with a LoRA's file of this name."""
    swarm = {**SWARM["sui_image_params"], "loras": [name]}
    loader = {**LORA, "inputs": {**LORA["inputs"], "lora_name": name}}
    said: dict[str, dict[str, Any]] = {
        "SwarmUI": {"parameters": {"sui_image_params": swarm}},
        "Fooocus": {"parameters": {**FOOOCUS, "loras": [[name, 0.5, "2c3d"]]}},
        "InvokeAI": {"invokeai_metadata": {**METADATA, "loras": [{"model": {"name": name}, "weight": 0.5}]}},
        "ComfyUI": {"prompt": graph(n10=loader, n3__model=["10", 0])},
    }
    return {text: json.dumps(value) for text, value in said[kind].items()}


@pytest.mark.parametrize("ending", [".safetensors", ".SAFETENSORS", ".sft", ".pth"])
@pytest.mark.parametrize("kind", ["SwarmUI", "Fooocus", "ComfyUI"])
def test_a_loras_file_has_the_alias_under_which_its_folder_is_registered(
    tmp_path: Path, kind: str, ending: str
) -> None:
    assert read(tmp_path, **lora_file(kind, f"sd\\Detail Tweaker{ending}")).fields["loras"] == {"detail-tweaker": 0.5}


def test_a_loras_name_has_the_alias_under_which_its_folder_is_registered(tmp_path: Path) -> None:
    assert read(tmp_path, **lora_file("InvokeAI", "Detail Tweaker")).fields["loras"] == {"detail-tweaker": 0.5}
