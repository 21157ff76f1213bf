"""The shortest way to many pictures: Diffusers in a loop, a pipeline call for each eight prompts, files in a folder.

A request names prompts, seeds, steps, guidance and the folder; the answer is how many seconds the loop took.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from benchmarks.peers.answering import answer_requests

_BATCH = 8


def main() -> None:
    pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def loop(request: dict[str, Any]) -> dict[str, float]:
        folder, prompts, seeds = Path(request["folder"]), request["prompts"], request["seeds"]
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        for first in range(0, len(prompts), _BATCH):
            images = pipeline(
                prompts[first : first + _BATCH],
                num_inference_steps=request["steps"],
                guidance_scale=request["guidance"],
                width=request["width"],
                height=request["height"],
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds[first : first + _BATCH]],
            ).images
            for number, image in enumerate(images, first):
                image.save(folder / f"{number:06d}.png")
        return {"seconds": time.perf_counter() - started}

    answer_requests(loop)


if __name__ == "__main__":
    main()
