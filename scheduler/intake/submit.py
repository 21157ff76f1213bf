"""Submit orders: check them against the key's limits, specify their pictures, accept them, call workers.

Every way in goes through `admit`: the command line, the HTTP API and the protocols of others, and the clock.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from scheduler.intake.admission import NO_LIMITS, Submitter, Terms, check_number, check_quota, check_work
from scheduler.intake.kinds import RemarksOfKinds
from scheduler.intake.order import Order
from scheduler.intake.pace import serving
from scheduler.intake.remarks import LabelRemarks, remarks_on
from scheduler.intake.requests import MOST_PICTURES, BadRows
from scheduler.intake.specify import specify
from scheduler.intake.tickets import top_up
from scheduler.intake.uploads import StoredInputs, check_stored, with_references
from scheduler.services import Services
from storage.access.keys import Limits
from storage.access.quotas import Quotas, most_at_once
from storage.access.uploads import Uploads
from storage.broker.tickets import Tickets
from storage.errors import BadSpecification, BrokerProblem, InvalidInput, NotFound, NotPermitted, QuotaExceeded
from storage.fleet.workers import Workers
from storage.jobs.jobs import Jobs
from storage.jobs.values import NewJob
from storage.objects.store import ObjectStore
from storage.renders.views import Views
from storage.spec.model_files import not_found, without_folders
from storage.spec.models import DiffusersModel, Model
from storage.spec.picture import Spec
from storage.spec.prompt_length import Unread, unread
from storage.spec.registry import Registry

log = logging.getLogger(__name__)

#: How many prompts that are too long are shown with the place.
_PLACES_SHOWN = 5
#: Pictures that a dry run shows.
_EXAMPLES = 3
#: An equal request within this time is a retry by its client.
_REPEATED_WITHIN_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Hold what a submission needs of the farm."""

    jobs: Jobs
    views: Views
    quotas: Quotas
    registry: Registry
    objects: ObjectStore
    #: None: no broker. A render is accepted all the same, and the sweep publishes its tickets.
    tickets: Tickets | None
    #: Who serves which model; None: workers start when there is work, or whoever submits watches for them.
    workers: Workers | None = None
    #: The files of models are on this machine.
    rendered_here: bool = False

    @property
    def uploads(self) -> Uploads:
        return Uploads(self.jobs.database, self.objects)


def intake_of(services: Services, tickets: Tickets | None, *, starts_workers: bool = True) -> Intake:
    """Return the intake over these services.

    Args:
        starts_workers: where no address is set, a worker starts on this machine when there is work.
    """
    embedded = services.settings.embedded
    return Intake(
        jobs=services.jobs,
        views=services.views,
        quotas=Quotas(services.database),
        registry=services.registry,
        objects=services.objects,
        tickets=tickets,
        workers=None if embedded and starts_workers else services.workers,
        rendered_here=embedded,
    )


class SpecifiedJobs(Iterator[NewJob]):
    """Iterate over the specified pictures of an order, counting them and collecting remarks."""

    def __init__(
        self,
        jobs: Iterator[NewJob],
        registry: Registry,
        remarks: Iterable[str] = (),
        limits: Limits = NO_LIMITS,
        *,
        rendered_here: bool = False,
    ) -> None:
        """Prepare to iterate; with `rendered_here`, over models whose files are on this machine."""
        self._jobs = jobs
        self._rendered_here = rendered_here
        self._limits = limits
        most = most_at_once(limits)
        self._most = MOST_PICTURES if most is None else min(most, MOST_PICTURES)
        self._total = 0
        self._labels = LabelRemarks()
        self._of_kinds = RemarksOfKinds(registry)
        self._registry = registry
        self._of_the_way_in = tuple(remarks)
        self._noted: Counter[str] = Counter()
        self._places = 0
        self._examples: dict[str, Spec] = {}
        self._by_model: Counter[str] = Counter()

    def __next__(self) -> NewJob:
        one = next(self._jobs)
        self._total += 1
        if self._total > self._most:
            check_number(self._total, self._limits)
        if self._rendered_here and one.spec.model not in self._by_model:
            _check_files(self._registry[one.spec.model])
        self._by_model[one.spec.model] += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.setdefault(one.spec.prompt, one.spec)
        noted: Iterable[str]
        unread_ends: Iterable[Unread]
        if one.kind is None:
            noted = remarks_on(one, self._registry)
            unread_ends = unread(one.spec, self._registry[one.spec.model], self._registry.embeddings)
        else:
            of_kind = self._of_kinds[one.kind]
            noted, unread_ends = of_kind.on(one.spec), of_kind.unread(one.spec)
        for remark in noted:
            self._noted[remark] += 1
        if one.labels:
            for remark in self._labels.noted(one.labels):
                self._noted[remark] += 1
        for end in unread_ends:
            if end.fatal:
                raise BadSpecification(end.words)
            # Each place is another remark: a few are shown, not a million.
            self._places += 1
            self._noted[end.words if self._places <= _PLACES_SHOWN else end.in_general] += 1
        return one

    @property
    def total(self) -> int:
        """How many were read so far."""
        return self._total

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_model))

    @property
    def remarks(self) -> Mapping[str, int]:
        """Remark → how many pictures it applies to."""
        noted = self._noted.copy()
        for remark, pictures in self._labels.counted:
            noted[remark] += pictures
        return {**dict.fromkeys(self._of_the_way_in, self.total), **noted}

    @property
    def examples(self) -> Sequence[Spec]:
        """The first pictures of different prompts, among those that were read so far."""
        return [*self._examples.values()]

    def pictures_of(self, model: str) -> int:
        """How many of those that were read so far are of this model."""
        return self._by_model[model]

    def exhaust(self) -> None:
        """Read the rest, for its count and its remarks."""
        for _ in self:
            pass


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """Hold an accepted render, the models that it needs and the remarks on it."""

    render_id: str
    models: tuple[str, ...]
    #: Remark → how many pictures it applies to.
    remarks: Mapping[str, int] = field(default_factory=dict)


def specified(intake: Intake, submitter: Submitter, order: Order, *, bad: BadRows | None = None) -> SpecifiedJobs:
    """Specify an order's pictures. Local files that it names are stored first, if its submitter may name any.

    Raises, here or while the pictures are read: InvalidInput with the place of what is wrong, unless `bad` leaves such
    rows out.
    """
    # So many of whatever is asked for, known before any is made: ten million of them take minutes.
    check_number(order.pictures_of_each, submitter.limits)
    for spec in order.specs:
        check_work(spec, submitter.limits)
    check_stored(intake.uploads, order.specs)
    bad = bad or BadRows(together=True)
    known = StoredInputs(intake.uploads, submitter)
    if order.names_inputs():
        # Rows that are skipped here are met again, and counted then.
        asked = order.asked(BadRows(report=lambda _: None) if bad.report else BadRows(together=bad.together))
        most = most_at_once(submitter.limits) or MOST_PICTURES
        known.fill(islice(asked, most + 1), beyond_wrong=bad.go_on)
    asked = with_references(order.asked(bad), known, bad)
    jobs = specify(
        asked,
        intake.registry,
        pictures_each=order.pictures_each,
        seed=order.seed,
        limits=submitter.limits,
        bad=bad,
    )
    of_specs = (NewJob(spec=spec) for spec in order.specs)
    here = intake.rendered_here
    return SpecifiedJobs(
        _or_all_bad(chain(of_specs, jobs), bad), intake.registry, order.remarks, submitter.limits, rendered_here=here
    )


def _or_all_bad(jobs: Iterator[NewJob], bad: BadRows) -> Iterator[NewJob]:
    """Yield the jobs, and raise at their end for all rows that were bad."""
    try:
        yield from jobs
    except InvalidInput as error:
        bad.refuse(error)
        raise
    bad.refuse()


def _check_files(model: Model) -> None:
    """Raise BadSpecification if a model names folders that are not on this machine, which renders it."""
    if isinstance(model, DiffusersModel) and (gone := not_found(model)):
        raise BadSpecification(
            f"model: {model.alias} needs {without_folders(', '.join(gone), model)}, which is not there; "
            f"`farm models show {model.alias}` says where it was looked for, correct `source` in the registry"
        )


def admit(
    intake: Intake, submitter: Submitter, order: Order, terms: Terms, *, bad: BadRows | None = None
) -> SpecifiedJobs:
    """Check an order against its submitter's limits, and specify it.

    A repeated idempotency key is not counted against the quota again.
    Raises QuotaExceeded, NotPermitted, and what `specified` raises.
    """
    # What has to be read is counted no further than the limits go.
    check_room(intake, submitter, terms, order.pictures if order.is_read else order.pictures(MOST_PICTURES + 1))
    return specified(intake, submitter, order, bad=bad)


def check_room(intake: Intake, submitter: Submitter, terms: Terms, pictures: int | Callable[[int], int]) -> None:
    """Check that a key's limits have room for more pictures: so many, or as many as are counted up to a number.

    Raises QuotaExceeded, NotPermitted.
    """
    try:
        check_quota(intake.quotas, submitter, pictures)
    except (QuotaExceeded, NotPermitted):
        # Asked afterwards: the first of two equal requests may be accepted meanwhile.
        key = terms.idempotency_key
        if not (key and intake.views.accepted_as(submitter.owner, key)):
            raise


def submit_order(
    intake: Intake,
    submitter: Submitter,
    order: Order,
    terms: Terms,
    *,
    bad: BadRows | None = None,
    through: Callable[[Iterable[NewJob]], Iterable[NewJob]] = iter,
) -> Accepted:
    """Accept an order whole or not at all, and call for workers.

    Without a broker, or with one that fails now, it is accepted all the same: the sweep publishes tickets.

    Args:
        through: wraps the pictures as they pass, such as in a progress bar.

    Raises QuotaExceeded, NotPermitted, IdempotencyConflict, BadSpecification.
    """
    if (before := _before(intake, submitter, terms)) is not None:
        jobs = specified(intake, submitter, order, bad=bad)
        jobs.exhaust()
        return Accepted(render_id=before, models=jobs.models, remarks=remarks_of(intake, jobs))
    jobs = admit(intake, submitter, order, terms, bad=bad)
    render_id = intake.jobs.submit(through(jobs), terms.submission(submitter), quanta=quanta(intake.registry))
    # Of a long order that was accepted before only the beginning was read; the remarks cover all of it.
    jobs.exhaust()
    publish_tickets(intake.jobs, intake.registry, intake.tickets, jobs.models)
    return Accepted(render_id=render_id, models=jobs.models, remarks=remarks_of(intake, jobs))


def remarks_of(intake: Intake, jobs: SpecifiedJobs) -> Mapping[str, int]:
    """Return the remarks on an order that was read: those on its pictures, and that nobody renders a model now."""
    if intake.workers is None:
        return jobs.remarks
    waiting = {
        f"model: no worker serves {model} now, so its pictures wait until one does": jobs.pictures_of(model)
        for model in jobs.models
        if not serving(intake.workers, [model])
    }
    return {**jobs.remarks, **waiting}


def _before(intake: Intake, submitter: Submitter, terms: Terms) -> str | None:
    """Return the render of a request that its client retries without an idempotency key."""
    if not terms.repeated or terms.idempotency_key is not None or terms.request_hash is None:
        return None
    return intake.views.latest_of(submitter.owner, terms.request_hash, within_seconds=_REPEATED_WITHIN_SECONDS)


def quanta(registry: Registry) -> dict[str, int]:
    """Return how many jobs an owner is dealt per round: one batch."""
    return {alias: model.batch for alias, model in registry.models.items()}


def publish_tickets(jobs: Jobs, registry: Registry, tickets: Tickets | None, models: Iterable[str]) -> None:
    """Publish the tickets that waiting jobs lack; an unavailable broker is only logged."""
    if tickets is None:
        return
    try:
        for alias in models:
            top_up(jobs, tickets, registry[alias])
    except (BrokerProblem, NotFound) as error:
        log.warning("tickets not published, the next sweep does", extra={"error": error})
