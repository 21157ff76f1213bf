"""Training one part of the model: a loop that can be stopped and goes on from its last checkpoint."""

import copy
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_SAVE_EVERY_SECONDS = 120
_LOG_EVERY_STEPS = 50
_WARM_UP_STEPS = 200


class Training:
    """A part's weights, their moving average, its optimizer and its step, kept in one file."""

    def __init__(self, name: str, module: Any, work: Path, *, steps: int, rate: float, ema: float = 0.999) -> None:
        """
        Args:
            work: folder of the checkpoint `<name>.pt` and of the log `<name>.jsonl`, a line every 50 steps.
            rate: highest learning rate of AdamW.
            ema: how much of the moving average stays at each step.
        """
        self.module = module
        self._average = copy.deepcopy(module).requires_grad_(False)
        self._ema = ema
        self._steps = steps
        self._rate = rate
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3, betas=(0.9, 0.99))
        self._file = work / f"{name}.pt"
        self._log = work / f"{name}.jsonl"
        self._step = 0
        self._seconds_before = 0.0
        self._started = time.monotonic()
        if self._file.exists():
            self._go_on(loaded(self._file))

    def run(self, loss_of: Callable[[int], dict[str, torch.Tensor]]) -> None:
        """Train up to the last step. `loss_of` gives the named losses of a step; their sum is minimised."""
        saved_at = time.monotonic()
        sums: Counter[str] = Counter()
        while self._step < self._steps:
            losses = loss_of(self._step)
            self._learn(torch.stack(list(losses.values())).sum())
            sums.update({name: float(loss.detach()) for name, loss in losses.items()} | {"steps": 1})
            if self._step % _LOG_EVERY_STEPS == 0:
                self._tell(sums)
                sums.clear()
            if time.monotonic() - saved_at > _SAVE_EVERY_SECONDS:
                self._save()
                saved_at = time.monotonic()
        self._save()

    def _learn(self, loss: torch.Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * self._pace()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        # Early on the average follows closely, so that it does not remember the beginning.
        kept = min(self._ema, self._step / (self._step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self.module.parameters()), 1 - kept)

    def _pace(self) -> float:
        """Share of the learning rate: up over the first steps, level, down to a hundredth over the last quarter."""
        left = (self._steps - self._step) / (self._steps / 4)
        return min(1.0, (self._step + 1) / _WARM_UP_STEPS, max(0.01, left))

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _tell(self, sums: Counter[str]) -> None:
        steps = sums.pop("steps")
        line = {"step": self._step, "seconds": round(self._seconds())}
        means = {name: round(total / steps, 5) for name, total in sums.items()}
        with self._log.open("a") as log:
            log.write(json.dumps(line | means) + "\n")

    def _save(self) -> None:
        unfinished = self._file.with_suffix(".new")
        state = {
            "module": self.module.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "seconds": self._seconds(),
        }
        torch.save(state, unfinished)
        unfinished.rename(self._file)

    def _go_on(self, saved: dict[str, Any]) -> None:
        self.module.load_state_dict(saved["module"])
        self._average.load_state_dict(saved["average"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._step, self._seconds_before = saved["step"], saved["seconds"]


def trained(name: str, module: Any, work: Path) -> Any:
    """A part as its training left it: the moving average of its weights, to be used only."""
    module.load_state_dict(loaded(work / f"{name}.pt")["average"])
    return module.requires_grad_(False).eval()


def loaded(file: Path) -> Any:
    """What was saved, on the device that is trained on."""
    return torch.load(file, map_location=torch.get_default_device(), weights_only=True)


def half() -> Any:
    """Half precision where it is faster; weights, losses and sums stay in single."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16)
