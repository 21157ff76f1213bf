"""The tables, but for those of keys, webhooks, schedules and exports, which have files of their own beside this one.

The migrations beside this file make them; a test compares the two on SQLite and PostgreSQL.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from storage.rules.states import State

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Times are seconds since 1970 by the database's clock.
renders = Table(
    "renders",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("cancelled", Integer, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    # Whether its events are recorded, and how many there are.
    Column("watched", Boolean, nullable=False, server_default=false()),
    Column("events", Integer, nullable=False, server_default="0"),
    # Out of the queue: what of it waits is held, not queued.
    Column("held", Boolean, nullable=False, server_default=false()),
    # Being deleted, and hidden (`storage.renders.purge`).
    Column("purging", Boolean, nullable=False, server_default=false()),
    # A client of the web UI's waits for it, and may interrupt it, until then (`storage.renders.waits`).
    Column("waited_until", Double),
    # Where to send its events, and which kinds (separated by spaces).
    Column("webhook_url", Text),
    Column("webhook_events", Text),
    # In which form they are told (`storage.events.webhooks`), and how its submitter reaches the API.
    Column("webhook_form", String(20)),
    Column("api_url", Text),
    # So that a repeated request is accepted once: the caller's key, and a hash of the content.
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64)),
    # The API key that it was submitted with, against whose limits it counts.
    Column("key_id", String(12)),
    # When it may be rendered: not before then, and within these hours (01:00-06:00) of this zone. No zone: at any time.
    Column("not_before", Double),
    Column("window", String(11)),
    Column("timezone", String(64)),
    # Whether it may be rendered, as it last followed that: between two changes, people hold and release as they like.
    Column("window_open", Boolean),
    # What its owner calls it, and says of it.
    Column("name", String(100)),
    Column("note", Text),
    # The models of its pictures, each between two spaces.
    Column("models", Text),
    # Of the files of its pictures; when the first and the last of them were done.
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    Column("first_done_at", Double),
    Column("last_done_at", Double),
    Index("ix_renders_name", "name", "created_at"),
    Index("ix_renders_idempotency_key", "owner", "idempotency_key", unique=True),
    Index("ix_renders_created_at", "created_at"),
    # An owner's own, newest first.
    Index("ix_renders_owner", "owner", "created_at"),
    Index("ix_renders_key_id", "key_id", "created_at"),
    # What is unfinished, of a key and of all: however much was finished before, it costs nothing.
    Index("ix_renders_unfinished", "key_id"),
    # What has times of its own, and is unfinished.
    Index("ix_renders_timed", "timezone"),
    # What is hidden and being deleted, which is looked for every other second.
    Index("ix_renders_purging", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    # Grows with submission, so that it orders jobs by age; people see `<render id>-<index>`.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("render_id", String(32), ForeignKey("renders.id"), nullable=False),
    Column("index", Integer, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("model", String(63), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("round", Integer, nullable=False),
    Column("batch_key", String(32), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(9), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("worker", String(128)),
    Column("lease_until", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("batch_id", String(32)),
    Column("object", Text),
    Column("sha256", String(64)),
    Column("bytes", Integer),
    Column("error", Text),
    # Class of its last fault (`storage.rules.faults`).
    Column("fault", String(20)),
    # Rendered alone: its process died with it, and the others of its batch are not to die with it again.
    Column("suspect", Boolean, nullable=False, server_default=false()),
    # Until then, its last worker leaves it to others.
    Column("elsewhere_until", Double),
    # As its render.
    Column("watched", Boolean, nullable=False, server_default=false()),
    # The caller's name and labels (JSON) for it, carried through to exports.
    Column("custom_id", String(200)),
    Column("labels", Text),
    # Of the pixels alone; the file also holds how it was made. None in rows of earlier versions.
    Column("pixels_sha256", String(64)),
    # What its worker says of it (JSON), such as words that the model does not read.
    Column("remarks", Text),
    # By how many threads of a CPU it is to be rendered, for the same bits as before. None: as many as the worker likes.
    Column("threads", Integer),
    # By which calls of the model it is to be made (JSON), for the same bits as before. None: as its worker likes.
    Column("replay", Text),
    # What its recipe says beside its batch's (JSON): by which calls of the model it was made. None: nothing.
    Column("own_recipe", Text),
    UniqueConstraint("render_id", "index"),
    CheckConstraint(
        "state IN ({})".format(", ".join(f"'{state}'" for state in State)),
        name="state",
    ),
    # The claim: the head of a model's queue, then the next jobs of the head's batch key.
    Index("ix_jobs_queue", "model", "priority", "round", "id"),
    Index("ix_jobs_fill", "batch_key", "priority", "round", "id"),
    # Dealing out rounds: where this owner's jobs end.
    Index("ix_jobs_rounds", "model", "priority", "owner", "round"),
    Index("ix_jobs_custom_id", "render_id", "custom_id", unique=True),
    # The sweep: leases that ran out.
    Index("ix_jobs_leases", "lease_until"),
    # Which renders have held jobs, and how many.
    Index("ix_jobs_held", "render_id"),
    # Looking for labels passes over what has none.
    Index("ix_jobs_labelled", "render_id"),
)

#: What was rendered in one pipeline call, in which order, with what: on a CPU or GPU the last bit of a picture can
#: depend on the shape of its batch, so making it again exactly takes its batch mates. Of pictures that were denoised by
#: slots, those that ended together after equal calls; the recipe names the calls, and no mates are needed.
batches = Table(
    "batches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("worker", String(128), nullable=False),
    # None in rows of the farm's first versions.
    Column("model", String(63)),
    Column("jobs", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    # Of the device, for these pictures.
    Column("render_seconds", Double, nullable=False),
    # From the first of their steps to the last. None: as long.
    Column("elapsed_seconds", Double),
    # From then until they were stored. None in rows of earlier versions.
    Column("store_seconds", Double),
    Column("finished_at", Double, nullable=False),
    # A worker's last success.
    Index("ix_batches_worker", "worker", "finished_at"),
    # What was rendered recently.
    Index("ix_batches_finished_at", "finished_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("host", String(128), nullable=False),
    Column("device", String(64), nullable=False),
    Column("device_name", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    # The run of `farm-worker` that it belongs to (`storage.process.run_id`).
    Column("run", String(100), nullable=False, server_default="unknown"),
    Column("models", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("model", String(63)),
    # How many pictures it is rendering now.
    Column("batch", Integer, nullable=False, server_default="0"),
    Column("pictures", Integer, nullable=False),
    # Of watched jobs at the device (JSON): the id of each, how many of its steps are done, and of how many.
    Column("jobs", Text, nullable=False, server_default="[]"),
    # Pictures a second, over the last minute.
    Column("rate", Double, nullable=False, server_default="0"),
    # What it waits for, such as a store that refuses its pictures.
    Column("trouble", Text),
    # By how many threads it renders on a CPU. None: on another device, or not yet.
    Column("threads", Integer),
    # What its slots do (JSON of `storage.fleet.slots.SlotCounts`). None: it has rendered batch by batch only.
    Column("slots", Text),
    # How many pictures a call of its may have at most, and why: registry, learned, memory … None: it made no call yet.
    Column("batch_limit", Integer),
    Column("limit_reason", String(16)),
    # The models that it holds in memory (JSON), the one used last at the end.
    Column("loaded", Text, nullable=False, server_default="[]"),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
)

#: Faults: a row for each job met, or one without a job if a service was unavailable.
faults = Table(
    "faults",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("fault", String(20), nullable=False),
    Column("worker", String(128)),
    Column("model", String(63)),
    Column("job_id", BigInteger),
    Column("attempt", Integer),
    # The same for all the jobs that one fault met.
    Column("incident", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Index("ix_faults_at", "at"),
    Index("ix_faults_worker", "worker", "at"),
    # Deleted with its job.
    Index("ix_faults_job_id", "job_id"),
)

#: Quarantined workers: whole devices (model '') or models on a device.
quarantines = Table(
    "quarantines",
    metadata,
    Column("worker", String(128), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("reason", Text, nullable=False),
)

#: Jobs that ended without a picture though one may have been stored (`storage.jobs.orphans`).
orphans = Table(
    "orphans",
    metadata,
    Column("job_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # Not before then: an upload may be under way.
    Column("due_at", Double, nullable=False),
    # Until then a process deletes its picture.
    Column("marked_until", Double),
    Index("ix_orphans_due_at", "due_at"),
)

#: What was learned from running out of memory, by all workers with the same hardware.
memory_limits = Table(
    "memory_limits",
    metadata,
    Column("model", String(63), primary_key=True),
    # A hash of how the registry says it is made and run, of its files, and of the farm's version.
    Column("entry", String(16), primary_key=True),
    Column("width", Integer, primary_key=True),
    Column("height", Integer, primary_key=True),
    Column("device_name", String(128), primary_key=True),
    # The most pictures in one pipeline call.
    Column("pictures", Integer, nullable=False),
    # Only with the VAE decoding one by one and in tiles.
    Column("frugal", Boolean, nullable=False),
    Column("learned_at", Double, nullable=False),
)

#: How many pictures a call is best made for, learned by all workers with the same hardware.
learned_limits = Table(
    "learned_limits",
    metadata,
    Column("model", String(63), primary_key=True),
    # A hash of how the registry says it is made and run, and of the farm's version.
    Column("entry", String(16), primary_key=True),
    Column("width", Integer, primary_key=True),
    Column("height", Integer, primary_key=True),
    # With the number of threads, on a CPU.
    Column("device_name", String(128), primary_key=True),
    Column("pictures", Integer, nullable=False),
    # Whether more and fewer were tried. If not, whoever comes next goes on from here.
    Column("settled", Boolean, nullable=False),
    Column("learned_at", Double, nullable=False),
)

#: Inputs by who stored them (`storage.access.uploads`); their bytes are objects, equal ones the same.
uploads = Table(
    "uploads",
    metadata,
    Column("object", String(71), primary_key=True),
    # Empty: at the command line, without a key, or by an earlier version, which noted no owner either.
    Column("key_id", String(12), primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    # When it was stored, or named, last.
    Column("used_at", Double, nullable=False),
    # Until when somebody may be deleting it.
    Column("marked_until", Double),
    # What a key may keep.
    Index("ix_uploads_key_id", "key_id"),
)

#: What happened to watched renders, numbered by render (`storage.events.log`).
events = Table(
    "events",
    metadata,
    Column("render_id", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("index", Integer),
    Column("data", Text, nullable=False),
)

#: What the farm signs with, webhooks by owner among it: it must be known to sign, so it cannot be a hash.
signing_secrets = Table(
    "signing_secrets",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("secret", String(64), nullable=False),
)

#: Files that were uploaded for OpenAI's Batch API; their bytes are inputs (`storage.objects.inputs`).
api_files = Table(
    "api_files",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("object", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

#: Batches of OpenAI's Batch API: which render they are, and which of its pictures each line is.
api_batches = Table(
    "api_batches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("file_id", String(32), nullable=False),
    Column("render_id", String(32), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("lines", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("ix_api_batches_owner", "owner", "created_at"),
    Index("ix_api_batches_render_id", "render_id"),
)
