"""What goes wrong, one function a fault: it injects, lasts a bounded time, and leaves the part able to work again.

A fault gets one target of its part to itself (a machine, a scheduler process, a service), so that no fault undoes
another; faults on different targets overlap.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import psutil

from storage.broker.queues import queue_name
from storage.errors import BrokerProblem
from storage.rules.states import Priority
from tests.chaos.plan import MODEL_NAMES, DatabaseKind
from tests.chaos.processes import Machine, StoredOrder
from tests.chaos.stage import Stage
from tests.integration.farm import freeze, resume
from tests.mortal import MortalPostgres, MortalRedis
from tests.proxy import Mode, Moods

_MOST_SURPLUS = 200
_REDIS_LISTS = "farm:model.*"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that one fault at a time may have."""

    name: str
    taken: threading.Lock
    thing: Any


@dataclass(frozen=True, kw_only=True)
class Act:
    """One injection: where, with which luck."""

    stage: Stage
    rng: Random
    part: Part
    fault: str

    def log(self, **details: Any) -> None:
        """The injection itself; written as it happens."""
        self.stage.events.write(self.part.name, self.fault, **details)

    def wait(self, seconds: float) -> None:
        """Let the fault last; cut short by the calm."""
        self.stage.calm.wait(seconds)

    def outage(self) -> float:
        return self.stage.plan.outage.draw(self.rng)


class Inject(Protocol):
    def __call__(self, act: Act, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault: what may be hit by it, and how."""

    name: str
    #: machine, clock, scheduler, api, redis, database, s3 or distance
    part: str
    inject: Inject
    databases: frozenset[DatabaseKind] = frozenset({"sqlite", "postgresql"})
    #: It ends a process that holds jobs, or stops it for longer than its lease.
    loses_jobs: bool = False


#: Those of this file, and of `tests.chaos.more_faults`.
FAULTS: list[Fault] = []


def fault(
    name: str, *, part: str, only: DatabaseKind | None = None, loses_jobs: bool = False
) -> Callable[[Inject], Inject]:
    """Enter a function into the deck."""

    def enter(inject: Inject) -> Inject:
        databases: frozenset[DatabaseKind] = frozenset({only} if only else {"sqlite", "postgresql"})
        FAULTS.append(Fault(name=name, part=part, inject=inject, databases=databases, loses_jobs=loses_jobs))
        return inject

    return enter


def parts(stage: Stage) -> dict[str, Sequence[Part]]:
    """What there is to hit, by kind."""

    def one(name: str, thing: Any) -> list[Part]:
        return [Part(name=name, taken=threading.Lock(), thing=thing)]

    machines = [Part(name=machine.name, taken=machine.taken, thing=machine) for machine in stage.machines]
    return {
        "machine": machines,
        # Of machines, too; without the library that they need, the fault says so.
        "clock": [part for part in machines if part.thing.clock is not None] or machines,
        "scheduler": [Part(name=kept.name, taken=kept.taken, thing=kept) for kept in stage.schedulers],
        "api": [Part(name=stage.api.name, taken=stage.api.taken, thing=stage.api)],
        "redis": one("redis", stage.redis),
        "database": one("database", stage.postgres),
        "s3": one("s3", None),
        # Beside whatever else happens to the services.
        "distance": one("distance", None),
    }


# -- machines --------------------------------------------------------------------------------------------------


@fault("kill device process", part="machine", loses_jobs=True)
def _kill_device(act: Act) -> None:
    _kill_one(act, act.part.thing, act.part.thing.device())


@fault("kill worker", part="machine", loses_jobs=True)
def _kill_worker(act: Act) -> None:
    _kill_one(act, act.part.thing, act.part.thing.parent())


def _kill_one(act: Act, machine: Machine, process: Any) -> None:
    held = act.stage.observer.held(machine.worker)
    try:
        if process is not None:
            process.kill()
    except psutil.NoSuchProcess:
        process = None
    if process is None:
        act.stage.events.write(machine.name, "nothing to kill", wanted=act.fault)
        return
    act.stage.recoveries.lost(act.fault, held)
    act.log(pid=process.pid, held=sorted(held))


@fault("kill machine", part="machine", loses_jobs=True)
def _kill_machine(act: Act) -> None:
    machine: Machine = act.part.thing
    down = act.stage.plan.down.draw(act.rng)
    held = act.stage.observer.held(machine.worker)
    machine.end(down=down)
    act.stage.recoveries.lost(act.fault, held)
    act.log(held=sorted(held), down=round(down, 1))
    act.wait(down)


@fault("freeze machine", part="machine", loses_jobs=True)
def _freeze_machine(act: Act) -> None:
    machine: Machine = act.part.thing
    seconds = act.stage.plan.frozen.draw(act.rng)
    if not machine.is_up:
        act.stage.events.write(machine.name, "nothing to freeze")
        return
    held = act.stage.observer.held(machine.worker)
    try:
        frozen = freeze(machine.process)
    except psutil.NoSuchProcess as error:
        # A child that ended just now; those stopped before it must not stay so.
        act.stage.events.write(machine.name, "nothing to freeze", error=str(error))
        frozen = [psutil.Process(machine.process.pid)] if machine.is_up else []
    else:
        act.stage.recoveries.lost(act.fault, held)
        act.log(held=sorted(held), seconds=round(seconds, 1))
        act.wait(seconds)
    for process in [below for above in frozen for below in (above, *_below(above))]:
        try:
            resume([process])
        except psutil.NoSuchProcess:
            continue


def _below(process: Any) -> list[Any]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


@fault("rolling restart", part="machine")
def _restart_machine(act: Act) -> None:
    machine: Machine = act.part.thing
    if machine.device() is None:
        act.stage.events.write(machine.name, "nothing to stop")  # it has just begun to start
        return
    act.log()
    code = machine.ask_to_end(within=act.stage.plan.grace + 20)
    machine.may_start()
    act.stage.events.write(machine.name, "restarted", code=code)
    if code != 0:
        machine.unasked.append(f"{machine.name} ended with exit code {code} when it was asked to stop")


@fault("clock steps", part="clock", only="postgresql")
def _step_clock(act: Act) -> None:
    machine: Machine = act.part.thing
    if machine.clock is None:
        act.stage.events.write(machine.name, "skipped: clock steps", reason="libfaketime is not installed")
        return
    seconds = act.rng.choice((-3600, -600, -45, 45, 600, 3600))
    machine.clock.write_text(f"{seconds:+d}\n")
    act.log(seconds=seconds)
    act.wait(act.outage() * 2)
    machine.clock.write_text("+0\n")


# -- scheduler processes ---------------------------------------------------------------------------------------


@fault("kill scheduler", part="scheduler")
def _kill_scheduler(act: Act) -> None:
    scheduler: StoredOrder = act.part.thing
    down = act.stage.plan.down.draw(act.rng)
    scheduler.end(down=down)
    act.log(down=round(down, 1))
    act.wait(down)


# -- Redis -----------------------------------------------------------------------------------------------------


@fault("FLUSHALL", part="redis")
def _flush(act: Act) -> None:
    act.stage.redis.client.flushall()
    act.log()


@fault("kill Redis", part="redis")
def _kill_redis(act: Act) -> None:
    server: MortalRedis = act.part.thing
    seconds = act.outage()
    server.kill()
    act.log(seconds=round(seconds, 1))
    act.wait(seconds)
    server.start()


@fault("freeze Redis", part="redis")
def _freeze_redis(act: Act) -> None:
    server: MortalRedis = act.part.thing
    seconds = act.outage()
    server.freeze()
    act.log(seconds=round(seconds, 1))
    act.wait(seconds)
    server.resume()


@fault("kill Redis clients", part="redis")
def _kill_clients(act: Act) -> None:
    killed = act.stage.redis.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    act.log(killed=killed)


@fault("surplus tickets", part="redis")
def _publish_surplus(act: Act) -> None:
    n = act.rng.randint(20, _MOST_SURPLUS)
    try:
        act.stage.direct_tickets.publish(act.rng.choice(MODEL_NAMES), act.rng.choice(tuple(Priority)), n)
    except BrokerProblem as error:
        act.stage.events.write("driver", "surplus tickets refused", error=str(error))
    act.stage.ledger.surplus.append(n)
    act.log(n=n)


@fault("tickets doubled and shuffled", part="redis")
def _shuffle_tickets(act: Act) -> None:
    client = act.stage.redis.client
    doubled = 0
    for key in sorted(client.scan_iter(_REDIS_LISTS, _type="list")):
        tickets = client.lrange(key, 0, -1) * 2
        if not tickets:
            continue
        act.rng.shuffle(tickets)
        with client.pipeline(transaction=True) as pipeline:
            pipeline.delete(key)
            pipeline.rpush(key, *tickets)
            pipeline.execute()
        doubled += len(tickets) // 2
    act.stage.ledger.surplus.append(doubled)
    act.log(n=doubled, lists=[queue_name(model) for model in MODEL_NAMES])


@fault("cut Redis", part="redis")
def _cut_redis(act: Act) -> None:
    _disturb(act, "redis", Mode.CUT)


@fault("stall Redis", part="redis")
def _stall_redis(act: Act) -> None:
    _disturb(act, "redis", Mode.STALL)


# -- the database ----------------------------------------------------------------------------------------------


@fault("terminate backends", part="database", only="postgresql")
def _terminate_backends(act: Act) -> None:
    server: MortalPostgres = act.part.thing
    act.log(backends=server.terminate_backends())


@fault("crash PostgreSQL", part="database", only="postgresql")
def _crash_postgres(act: Act) -> None:
    server: MortalPostgres = act.part.thing
    seconds = act.outage()
    server.crash()
    act.log(seconds=round(seconds, 1))
    act.wait(seconds)
    server.start()


@fault("cut database", part="database", only="postgresql")
def _cut_database(act: Act) -> None:
    _disturb(act, "postgresql", Mode.CUT)


@fault("stall database", part="database", only="postgresql")
def _stall_database(act: Act) -> None:
    _disturb(act, "postgresql", Mode.STALL)


@fault("lock jobs", part="database")
def _lock_jobs(act: Act) -> None:
    seconds = act.outage()
    with act.stage.locked_jobs():
        act.log(seconds=round(seconds, 1))
        act.wait(seconds)


# -- the object store ------------------------------------------------------------------------------------------


@fault("cut S3", part="s3")
def _cut_s3(act: Act) -> None:
    _disturb(act, "s3", Mode.CUT)


@fault("stall S3", part="s3")
def _stall_s3(act: Act) -> None:
    _disturb(act, "s3", Mode.STALL)


@fault("S3 errs", part="s3")
def _err_s3(act: Act) -> None:
    moods = Moods(refused=act.rng.choice((0.08, 0.3, 1.0)), unanswered=act.rng.choice((0.0, 0.06, 0.3)))
    seconds = 2 * act.outage()
    act.stage.links.set_moods(moods)
    act.log(refused=moods.refused, unanswered=moods.unanswered, seconds=round(seconds, 1))
    act.wait(seconds)
    act.stage.links.set_moods(Moods())


# -- cables ----------------------------------------------------------------------------------------------------


def _disturb(act: Act, service: str, mode: Mode) -> None:
    """Cut or stall the cables of everyone to a service, or of one machine alone: a part of a farm cut off."""
    end = act.rng.choice((None, *(machine.name for machine in act.stage.machines)))
    seconds = act.outage()
    cables = act.stage.links.ends(service, end)
    for cable in cables:
        cable.set(mode)
    act.log(end=end or "all", seconds=round(seconds, 1))
    act.wait(seconds)
    for cable in cables:
        cable.set(Mode.PASS)
