"""Edit a schedule: when it fires, how, and what is rendered. Its history stays."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scheduler.cron.changes import PlanChange, undecided_times
from scheduler.cron.stored_orders import (
    KeptSource,
    StoredOrder,
    fields_of,
    kept_order,
    restored_order,
    store_order,
)
from scheduler.intake import grid
from scheduler.intake.admission import Submitter, Terms
from scheduler.intake.manifests import Manifest, read_manifest
from scheduler.intake.order import Order
from scheduler.intake.submit import Intake
from storage.errors import BadSpecification
from storage.renders.schedules import Plan, Schedule, Schedules
from storage.rules.states import PRIORITY_NAMES, Priority
from storage.settings import Settings

#: How remarks on a plan begin.
_ON_THE_PLAN = ("at: ", "timezone: ")


@dataclass(frozen=True, kw_only=True)
class OrderChange:
    """Hold what is to change of what a schedule renders; None: it stays."""

    #: What to draw now.
    prompts: Order | None = None
    #: What these were read from, if they are to be read anew each time.
    source: KeptSource | None = None
    #: Whether nothing of the order before is to stay: no field, no list of values.
    whole: bool = False
    #: For all pictures: also for stored rows that said otherwise.
    fields: Mapping[str, Any] = field(default_factory=dict)
    pictures_each: int | None = None
    seed: int | None = None
    priority: Priority | None = None
    #: With `whole`: webhook and the like; None: those stay.
    terms: Terms | None = None

    @property
    def reads(self) -> bool:
        """Whether the pictures are others than before, so that they are to be read and checked."""
        return bool(self.prompts or self.fields or self.pictures_each is not None or self.seed is not None)


@dataclass(frozen=True, kw_only=True)
class Editor:
    """Edits schedules, each in one transaction."""

    schedules: Schedules
    intake: Intake
    settings: Settings

    def edit(self, before: Schedule, change: PlanChange, order: OrderChange, submitter: Submitter) -> Schedule:
        """Edit a schedule and return it as it is now; all that was not said stays.

        The order is checked whole, outside the transaction; then the schedule is edited before a firing or after it.
        Raises InvalidInput with what is wrong, also where somebody else edited it meanwhile; then nothing changes.
        """
        now = self.schedules.now()
        plan, remarks = change.applied(before.plan, now=now)
        if order.seed is not None and change.seeds is None:
            plan = replace(plan, seeds="same")
        kept = self._order(before, plan, order, submitter)
        if plan != before.plan:
            kept = kept.model_copy(update={"remarks": tuple(_still_true(kept.remarks, change))})
        self.schedules.edit(
            before,
            plan=plan,
            order=kept.remarked(remarks).model_dump(mode="json"),
            undecided=undecided_times(before, now),
        )
        return self.schedules.get(before.name, owner=before.owner)

    def _order(self, before: Schedule, plan: Plan, change: OrderChange, submitter: Submitter) -> StoredOrder:
        kept = kept_order(before) if change.prompts is None or not change.whole else StoredOrder(pictures=0)
        same_seeds = plan.seeds == "same"
        terms = kept.terms(held=False) if change.terms is None else change.terms
        if change.priority is not None:
            terms = replace(terms, priority=change.priority)
        if not change.reads and plan.seeds == before.plan.seeds:
            new = {
                "priority": PRIORITY_NAMES[terms.priority],
                "key_id": submitter.key_id,
                "api_url": submitter.api_url or kept.api_url,
            }
            return kept.model_copy(update=new)
        with self._changed(before, kept, change) as (order, source):
            return store_order(self.intake, submitter, order, terms, same_seeds=same_seeds, source=source)

    @contextmanager
    def _changed(
        self, before: Schedule, kept: StoredOrder, change: OrderChange
    ) -> Iterator[tuple[Order, KeptSource | None]]:
        more: dict[str, Any] = {} if change.pictures_each is None else {"pictures_each": change.pictures_each}
        more |= {} if change.seed is None else {"seed": change.seed}
        if change.prompts is not None:
            new = change.prompts if change.whole else _merged(kept, change.prompts)
            yield replace(new, **more), change.source
            return
        _check_together(kept.in_step, kept.combined, {*change.fields, *({"seed"} if change.seed is not None else ())})
        with restored_order(kept, self.intake.objects, self.settings, name=before.name) as old:
            defaults = {**kept.defaults, **change.fields}
            if kept.source is not None:
                yield replace(old, defaults=defaults, **more), kept.kept_source
                return
            with _rewritten(old.manifest, change.fields) as manifest:
                yield replace(old, manifest=manifest, defaults=defaults, **more), None


def _merged(kept: StoredOrder, new: Order) -> Order:
    """Return other prompts, with the fields and lists of values that were there where they say nothing."""
    in_step = new.in_step or {name: values for name, values in kept.in_step.items() if name != "prompt"}
    combined = new.combined or {name: values for name, values in kept.combined.items() if name != "prompt"}
    _check_together(in_step, combined, {*new.defaults})
    listed = {*in_step, *combined}
    defaults = {name: value for name, value in kept.defaults.items() if name not in listed}
    return replace(
        new,
        defaults={**defaults, **new.defaults},
        in_step=in_step,
        combined=combined,
        pictures_each=kept.pictures_each,
        seed=kept.seed if new.seed is None else new.seed,
    )


def _check_together(in_step: grid.Columns, combined: grid.Columns, given: set[str]) -> None:
    try:
        grid.check(in_step, combined, given)
    except ValueError as error:
        raise BadSpecification(str(error)) from None


@contextmanager
def _rewritten(manifest: Manifest | None, fields: Mapping[str, Any]) -> Iterator[Manifest | None]:
    """Yield stored rows with these fields, whatever they said before."""
    if manifest is None or not fields:
        yield manifest
        return
    with tempfile.NamedTemporaryFile("w", prefix="farm-schedule-", encoding="utf-8") as file:
        for one in read_manifest(manifest):
            row = fields_of(one.request.model_copy(update=fields))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        yield replace(manifest, path=Path(file.name))


def _still_true(remarks: tuple[str, ...], change: PlanChange) -> Iterator[str]:
    """Yield the remarks that were made before and that a change of the plan leaves as they are."""
    told_anew = change.cron is not None or change.at is not None or change.timezone is not None
    return (remark for remark in remarks if not (told_anew and remark.startswith(_ON_THE_PLAN)))
