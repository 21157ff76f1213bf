"""Kandinsky's first half: its prior turns prompts into image embeddings, from which its decoder draws."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from storage.spec.picture import Spec


def image_embeddings(
    prior: Any, specs: Sequence[Spec], generators: Sequence[torch.Generator], after_step: Callable[..., dict[str, Any]]
) -> dict[str, torch.Tensor]:
    """Return `image_embeds` and `negative_image_embeds` (batch, width), as the combined pipeline does for one picture.

    With a negative prompt, the prior draws the noise for both prompts at once from one generator: such a picture goes
    through it alone. The generators are then used on by the decoder.
    """
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    together = [index for index, spec in enumerate(specs) if not spec.negative_prompt]
    alone = [[index] for index, spec in enumerate(specs) if spec.negative_prompt]
    for at in [together, *alone] if together else alone:
        shared = specs[at[0]]
        asked = {"num_inference_steps": shared.prior_num_inference_steps, "guidance_scale": shared.prior_guidance_scale}
        positive, negative = prior(
            prompt=[specs[index].prompt for index in at],
            negative_prompt=[shared.negative_prompt] if shared.negative_prompt else None,
            generator=generators[at[0]] if len(at) == 1 else [generators[index] for index in at],
            output_type="pt",
            return_dict=False,
            callback_on_step_end=after_step,
            **{name: value for name, value in asked.items() if value is not None},
        )
        found |= zip(at, zip(positive, negative, strict=True), strict=True)
    columns = zip(*(found[index] for index in range(len(specs))), strict=True)
    return dict(zip(("image_embeds", "negative_image_embeds"), map(torch.stack, columns), strict=True))
