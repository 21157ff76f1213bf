"""Safetensors files without torch: real names and shapes, few or no numbers."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

SD = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
SD2 = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": (4,),
    "cond_stage_model.model.token_embedding.weight": (2, 1024),
    "first_stage_model.decoder.conv_in.weight": (1,),
}
SDXL = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "conditioner.embedders.0.transformer.text_model.x": (1,),
    "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    "first_stage_model.decoder.conv_in.weight": (1,),
}
#: A LoRA of kohya's trainer for SDXL, of rank 8.
LORA = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight": (640, 8),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha": (),
}


def written(
    file: Path,
    tensors: Mapping[str, Sequence[int]],
    *,
    numbers: Sequence[float] = (),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a safetensors file of float32 tensors: zeros, or these numbers in the first of four."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        values = numbers if numbers and tuple(shape) == (4,) else [0.0] * count
        begin, data = len(data), data + struct.pack(f"<{count}f", *values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file
