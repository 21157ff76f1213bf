"""More of what goes wrong: the API is killed, services are far away, a machine comes with a taken name."""

from tests.chaos.faults import Act, fault
from tests.chaos.processes import Machine, StoredOrder

#: Each way: the database is five milliseconds away, a store answers a tenth of a second late.
_FAR, _SLOW = 0.0025, 0.1
_API_SECONDS = 30.0


@fault("kill API", part="api")
def _kill_api(act: Act) -> None:
    api: StoredOrder = act.part.thing
    down = act.stage.plan.down.draw(act.rng)
    api.end(down=down)
    act.log(down=round(down, 1))
    act.wait(down)
    _wait_until_it_answers(act)


@fault("restart API", part="api")
def _restart_api(act: Act) -> None:
    api: StoredOrder = act.part.thing
    if not act.stage.api_answers():
        act.stage.events.write("api", "nothing to stop")  # it has just begun to start
        return
    act.log()
    code = api.ask_to_end(within=_API_SECONDS)
    api.may_start()
    act.stage.events.write("api", "restarted", code=code)
    if code not in api.ends_with:
        api.unasked.append(f"the API ended with exit code {code} when it was asked to stop")
    _wait_until_it_answers(act)


def _wait_until_it_answers(act: Act) -> None:
    # It starts at once, or with its services; so long nobody else is to play with it.
    for _ in range(int(_API_SECONDS)):
        if act.stage.api_answers() or act.stage.calm.wait(1):
            return


@fault("distant database", part="distance", only="postgresql")
def _put_database_far_away(act: Act) -> None:
    _delay(act, "postgresql", _FAR)


@fault("slow S3", part="distance")
def _slow_s3(act: Act) -> None:
    _delay(act, "s3", _SLOW)


def _delay(act: Act, service: str, seconds: float) -> None:
    cables, lasting = act.stage.links.ends(service, None), 3 * act.outage()
    for cable in cables:
        cable.delay = seconds
    act.log(each_way=seconds, seconds=round(lasting, 1))
    act.wait(lasting)
    for cable in cables:
        cable.delay = 0.0


@fault("second worker of one name", part="machine")
def _start_a_rival(act: Act) -> None:
    machine: Machine = act.part.thing
    rival = StoredOrder(
        name=f"rival-of-{machine.name}",
        module=machine.module,
        environment=machine.environment,
        folder=machine.folder,
        events=act.stage.events,
        starter=machine.starter,
    )
    seconds = 4 * act.outage()
    act.log(seconds=round(seconds, 1), machine_is_up=machine.device() is not None)
    rival.tend()
    try:
        act.wait(seconds)
        if not rival.is_up:
            act.stage.events.write(rival.name, "refused", code=rival.process.returncode)
            if rival.process.returncode == 0:
                machine.unasked.append(f"a second worker of the name {machine.worker} ended as if all were well")
    finally:
        rival.close()
