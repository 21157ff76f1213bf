"""What people do meanwhile: submit, through the library and through `farm render`; cancel; retry."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from scheduler.intake import order as intake_order
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.submit import intake_of, quanta, submit_order
from storage.errors import ServiceProblem
from tests.chaos.ledger import Order
from tests.chaos.stage import Stage

_TICK_SECONDS = 0.1
_LATEST = 30


@dataclass(frozen=True, kw_only=True)
class _Command:
    """A `farm render` under way, and when it will be killed."""

    order: Order
    process: subprocess.Popen[bytes]
    answer: Path
    kill_at: float


@dataclass(kw_only=True)
class Load:
    """Keeps a bounded number of jobs waiting until the calm."""

    stage: Stage
    rng: Random
    _command: _Command | None = None
    _next_command_at: float = 0.0
    _next_cancel_at: float = 0.0
    _to_cancel: list[str] = field(default_factory=list)
    #: Render → when it is released.
    _held: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        try:
            while not self.stage.calm.wait(_TICK_SECONDS):
                self.top_up()
                self._tend_command()
                self._cancel()
                self._release(now=time.monotonic())
        finally:
            while self._held and not self.stage.over.wait(_TICK_SECONDS):
                self._release(now=float("inf"))
            if self._command is not None:
                self._command.process.kill()
                self._command.process.wait()

    # -- submitting --------------------------------------------------------------------------------------------

    def top_up(self) -> None:
        """Submit a render if too few jobs wait."""
        if self.stage.observer.waiting() < self.stage.plan.backlog:
            self._submit()

    def _submit(self) -> None:
        stage = self.stage
        order = stage.ledger.order(self.rng, most=stage.plan.most_jobs_a_render)
        registry = stage.services.registry
        specs = tuple(registry.resolve(request, seed=order.first_seed) for request in order.requests())
        try:
            accepted = submit_order(
                intake_of(stage.services, stage.tickets),
                Submitter(owner=order.owner),
                intake_order.Order(specs=specs),
                Terms(priority=order.priority),
            )
        except ServiceProblem as error:
            # Perhaps it was accepted and the answer lost: then it must be there as a whole.
            stage.events.write("driver", "submit unanswered", order=order.first_seed, error=str(error)[:200])
            return
        stage.ledger.accepted[accepted.render_id] = order

    def _tend_command(self) -> None:
        now = time.monotonic()
        if self._command is None:
            if now >= self._next_command_at:
                self._command = self._start_command()
            return
        command = self._command
        code = command.process.poll()
        if code is None and now >= command.kill_at:
            command.process.kill()
            code = command.process.wait()
            self.stage.events.write("farm render", "kill farm render", order=command.order.first_seed)
        if code is None:
            return
        if code == 0:
            render_id = json.loads(command.answer.read_text())["id"]
            self.stage.ledger.accepted[render_id] = command.order
        self._command, self._next_command_at = None, now + self.stage.plan.between_commands.draw(self.rng)

    def _start_command(self) -> _Command:
        order = self.stage.ledger.order(self.rng, most=self.stage.plan.most_jobs_a_render)
        words = [
            *("render", order.prompt, "--model", order.model, "-n", order.jobs, "--seed", order.first_seed),
            *("--owner", order.owner, "--priority", order.priority.name.lower(), "--no-wait", "--json"),
        ]
        answer = self.stage.folder / "farm-render.json"
        with answer.open("wb") as output, (self.stage.folder / "farm-render.log").open("ab") as errors:
            process = self.stage.plan.starter.start(
                [sys.executable, "-m", "scheduler.cli.main", *map(str, words)],
                stdout=output,
                stderr=errors,
                env=os.environ | self.stage.environment,
            )
        kill_after = self.stage.plan.command_lives.draw(self.rng) if self.rng.random() < 0.5 else 60
        return _Command(order=order, process=process, answer=answer, kill_at=time.monotonic() + kill_after)

    # -- changing one's mind -----------------------------------------------------------------------------------

    def _cancel(self) -> None:
        stage, now = self.stage, time.monotonic()
        if now >= self._next_cancel_at and stage.ledger.accepted:
            self._next_cancel_at = now + stage.plan.between_cancels.draw(self.rng)
            chosen = self.rng.choice(list(stage.ledger.accepted)[-_LATEST:])
            luck = self.rng.random()
            if luck < 0.3:
                self._hold(chosen)
            elif luck < 0.6:
                self._to_cancel.append(chosen)
            elif chosen not in stage.ledger.cancelled and chosen not in self._to_cancel:
                self._retry(chosen)
        for render_id in list(self._to_cancel):
            try:
                cancelled = stage.services.jobs.cancel(render_id)
            except ServiceProblem:
                continue  # asked again at the next tick
            stage.ledger.cancelled.setdefault(render_id, stage.observer.standing(render_id))
            stage.events.write("driver", "cancel", render=render_id, jobs=cancelled)
            self._to_cancel.remove(render_id)

    def _hold(self, render_id: str) -> None:
        # Before it is asked for: it may be held though no answer says so.
        self._held[render_id] = time.monotonic() + self.stage.plan.outage.draw(self.rng)
        try:
            held = self.stage.services.jobs.hold(render_id)
        except ServiceProblem:
            return
        self.stage.events.write("driver", "hold", render=render_id, jobs=held)

    def _release(self, *, now: float) -> None:
        for render_id in [render_id for render_id, due_at in self._held.items() if due_at <= now]:
            try:
                released = self.stage.services.jobs.release(render_id)
            except ServiceProblem:
                continue  # asked again at the next tick
            self.stage.events.write("driver", "release", render=render_id, jobs=released)
            del self._held[render_id]

    def _retry(self, render_id: str) -> None:
        try:
            retried = self.stage.services.jobs.retry(render_id, quanta=quanta(self.stage.services.registry))
        except ServiceProblem:
            return  # whether it was done or not: both are right
        self.stage.events.write("driver", "retry", render=render_id, jobs=retried)
        if retried:
            self.stage.ledger.retried.add(render_id)
