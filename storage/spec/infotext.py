"""What picture galleries read of a picture: the "infotext" of the AUTOMATIC1111 web UI."""

from storage.spec.picture import SAMPLERS, Spec


def infotext(spec: Spec, *, version: str) -> str:
    """Write a picture's settings as the web UI's `create_infotext` does, for picture galleries to parse."""
    fields = {
        "Steps": spec.num_inference_steps,
        "Sampler": SAMPLERS[spec.sampler] if spec.sampler else None,
        "CFG scale": f"{spec.guidance_scale:g}",
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Model": spec.model,
        "Version": f"diffusion-farm {version}".strip(),
    }
    lines = [spec.prompt]
    if spec.negative_prompt:
        lines.append(f"Negative prompt: {spec.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)
