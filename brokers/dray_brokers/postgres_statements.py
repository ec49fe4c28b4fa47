"""The tables and statements of the PostgreSQL broker. One statement is one step, and commits as a whole or not at all.

A message is one row of `message`, and its state is read off two columns:

    due NULL                       ready: waiting in line
    due in the future, no token    delayed
    due in the future, a token     leased until `due`, to the consumer that knows the token
    due in the past                ready, but not in line yet: a delay or a lease has run out

The next fetch from its queue lends a message of the last kind, or puts it in line, so there is no reaper to keep alive.
The line is ordered by `seq`: who gets a new `seq` from the sequence `place` stands at the back. All instants are
`clock_timestamp()` of the server; `now()` would be the beginning of the caller's transaction.
"""

from __future__ import annotations

from .postgres_schema import Part

#: Rows with a lease or a delay that has run out that one fetch takes up at most.
OVERDUE = 1000
#: Rows one purge or replay statement takes at most, so that none takes long.
SLICE = 1000

# What is fetched and acked all day leaves dead rows behind that every look has to step over: they are vacuumed away
# after ten thousand, not after a fifth of the table, and without pauses.
_TENDED = """
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0"""

BROKER = Part(
    "broker",
    (
        (
            "CREATE SEQUENCE {schema}.place",
            f"""
            CREATE TABLE {{schema}}.message (
                seq bigint NOT NULL DEFAULT nextval('{{schema}}.place'),  -- place in line
                published timestamptz NOT NULL,
                due timestamptz,                        -- NULL: ready; else when the delay or the lease ends
                token bigint,                           -- of the fetch that lent it; NULL: not lent
                attempt integer NOT NULL,
                deliveries integer NOT NULL DEFAULT 0,  -- times lent, counted by the fetch
                priority smallint NOT NULL,             -- 0-9, 9 comes out first
                id text COLLATE "C" NOT NULL,
                queue text COLLATE "C" NOT NULL,
                body bytea NOT NULL,
                PRIMARY KEY (id, attempt)
            ) WITH ({_TENDED})""",
            "CREATE INDEX message_ready ON {schema}.message (queue, priority DESC, seq) WHERE due IS NULL",
            "CREATE INDEX message_due ON {schema}.message (queue, due) WHERE due IS NOT NULL",
            """
            CREATE TABLE {schema}.dead (
                seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- order of burial
                published timestamptz NOT NULL,
                buried timestamptz NOT NULL,
                attempt integer NOT NULL,
                deliveries integer NOT NULL,
                priority smallint NOT NULL,
                id text COLLATE "C" NOT NULL,
                queue text COLLATE "C" NOT NULL,
                body bytea NOT NULL,
                reason text NOT NULL
            )""",
            "CREATE INDEX dead_queue ON {schema}.dead (queue, seq)",
            "CREATE INDEX dead_id ON {schema}.dead (id)",
            """
            CREATE TABLE {schema}.cancelled (
                id text COLLATE "C" PRIMARY KEY,
                until timestamptz NOT NULL              -- when it may be forgotten
            )""",
            "CREATE INDEX cancelled_until ON {schema}.cancelled (until)",
        ),
    ),
)

# A notification per queue and batch, sent when the transaction commits, which may be the caller's.
PUBLISH = """
    WITH stored AS (
        INSERT INTO {schema}.message (id, attempt, queue, priority, due, published, body)
        SELECT id, attempt, queue, priority, CASE WHEN delay > 0 THEN now + delay * interval '1 second' END, now, body
        FROM (SELECT clock_timestamp() AS now) AS clock,
             unnest(%(ids)b::text[], %(attempts)b::integer[], %(queues)b::text[], %(priorities)b::smallint[],
                    %(delays)b::float8[], %(bodies)b::bytea[])
             WITH ORDINALITY AS envelope (id, attempt, queue, priority, delay, body, place)
        ORDER BY envelope.place
        ON CONFLICT (id, attempt) DO NOTHING
        RETURNING queue)
    SELECT pg_notify(%(channel)s, queue) FROM (SELECT DISTINCT queue FROM stored) AS queues WHERE %(notify)s"""
RING = "SELECT pg_notify(%(channel)s, queue) FROM unnest(%(queues)b::text[]) AS queue"

# For each queue: is there anything to fetch, and seconds until the next one comes due. Locks nothing.
LOOK = """
    SELECT looked.queue, EXISTS (SELECT FROM {schema}.message AS m WHERE m.queue = looked.queue AND due IS NULL),
           (SELECT date_part('epoch', due - clock_timestamp()) FROM {schema}.message AS m
            WHERE m.queue = looked.queue AND due IS NOT NULL ORDER BY due LIMIT 1)
    FROM unnest(%(queues)b::text[]) WITH ORDINALITY AS looked (queue, place) ORDER BY looked.place"""

# Which file the rows are in: another one after VACUUM FULL, and what else writes the table anew, all in other spots.
_FILE = "(SELECT pg_relation_filenode('{schema}.message'))"

# Takes the head of the line and what is overdue, lends the first of them all, and puts the rest of what is overdue in
# line. Rows that another fetch has in hand are passed over, so that consumers never wait for one another. A row that
# changed since this statement began is not found under its old ctid: it is left for the next fetch. How long a body is
# stands beside it: none is read for that. The one that makes `room` bytes full is the last.
FETCH = f"""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
    overdue AS MATERIALIZED (
        SELECT ctid, priority, seq, octet_length(body) AS size FROM {{schema}}.message
        WHERE queue = %(queue)s AND due <= (SELECT now FROM clock) ORDER BY due LIMIT {OVERDUE}
        FOR UPDATE SKIP LOCKED),
    ready AS MATERIALIZED (
        SELECT ctid, priority, seq, octet_length(body) AS size FROM {{schema}}.message
        WHERE queue = %(queue)s AND due IS NULL ORDER BY priority DESC, seq LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED),
    chosen AS MATERIALIZED (
        SELECT ctid AS spot FROM (
            SELECT ctid, sum(size) OVER (ORDER BY priority DESC, late, seq ROWS UNBOUNDED PRECEDING) - size AS before
            FROM (
                SELECT ctid, priority, false AS late, seq, size FROM ready
                UNION ALL SELECT ctid, priority, true, seq, size FROM overdue) AS candidates
            ORDER BY priority DESC, late, seq LIMIT %(limit)s) AS line
        WHERE before < %(room)s),
    promoted AS (
        UPDATE {{schema}}.message SET due = NULL, token = NULL, seq = nextval('{{schema}}.place')
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM overdue WHERE ctid NOT IN (SELECT spot FROM chosen)))),
    lent AS (
        UPDATE {{schema}}.message AS m
        SET due = clock.now + %(lease)s * interval '1 second', token = %(token)s, deliveries = deliveries + 1
        FROM clock WHERE m.ctid = ANY (ARRAY(SELECT spot FROM chosen))
        RETURNING m.*, m.ctid AS spot)
    SELECT id, attempt, queue, body, deliveries, priority, date_part('epoch', published),
           (SELECT EXISTS (SELECT FROM {{schema}}.cancelled WHERE until > (SELECT now FROM clock)))
           AND EXISTS (SELECT FROM {{schema}}.cancelled AS c WHERE c.id = lent.id AND c.until > clock_timestamp()),
           spot::text, (SELECT (date_part('epoch', due) * 1000000)::bigint FROM lent LIMIT 1), {_FILE}
    FROM lent ORDER BY priority DESC, seq"""

# Settle: each holds only while the token is still the one of this loan, and returns the loans that were held. A loan
# that is over but that nobody else has taken up yet can still be settled, which saves a second run.
_HELD = """
    unnest(%(ids)b::text[], %(attempts)b::integer[], %(tokens)b::bigint[]) AS loan (id, attempt, token)
    WHERE m.id = loan.id AND m.attempt = loan.attempt AND m.token = loan.token"""
_WHICH = "loan.id, loan.attempt, loan.token"
ACK = f"DELETE FROM {{schema}}.message AS m USING {_HELD} RETURNING {_WHICH}"
# The same where they were put by the fetch, which takes a third of the time as no index is looked into. A row there is
# the one that was lent, and no other that was put there since: what moves rows leaves another `due`, or another file.
# Returns how many were held and, if that were not all, where those were. (The planner expects little of an array
# that is made on the way, and looks up each spot; otherwise it would rather read a table of some hundred pages. Asked
# for `due` as it is, it would go through all loans of all workers in the index.)
ACK_UNMOVED = f"""
    WITH gone AS (
        DELETE FROM {{schema}}.message AS m USING unnest(ARRAY(SELECT unnest(%(spots)s::tid[]))) AS loan (spot)
        WHERE m.ctid = loan.spot AND m.token = %(token)s
              AND (date_part('epoch', m.due) * 1000000)::bigint = %(due)s AND {_FILE} = %(file)s::oid
        RETURNING m.ctid AS spot)
    SELECT count(*), CASE WHEN count(*) < %(count)s THEN array_agg(spot::text) END FROM gone"""
REQUEUE = f"""
    UPDATE {{schema}}.message AS m
    SET seq = nextval('{{schema}}.place'), token = NULL,
        due = CASE WHEN %(delay)s > 0 THEN clock_timestamp() + %(delay)s * interval '1 second' END
    FROM {_HELD} RETURNING {_WHICH}"""
RELEASE = f"""
    UPDATE {{schema}}.message AS m SET due = NULL, token = NULL, deliveries = deliveries - 1
    FROM {_HELD} RETURNING {_WHICH}"""
GIVE_BACK = f"UPDATE {{schema}}.message AS m SET due = NULL, token = NULL FROM {_HELD} RETURNING {_WHICH}"
EXTEND = f"""
    UPDATE {{schema}}.message AS m SET due = clock_timestamp() + %(seconds)s * interval '1 second'
    FROM {_HELD} RETURNING {_WHICH}"""
BURY = f"""
    WITH gone AS (DELETE FROM {{schema}}.message AS m USING {_HELD} RETURNING m.*),
    buried AS (
        INSERT INTO {{schema}}.dead (id, attempt, queue, priority, deliveries, published, body, reason, buried)
        SELECT id, attempt, queue, priority, deliveries, published, body, %(reason)s, clock_timestamp() FROM gone)
    SELECT id, attempt, token FROM gone"""

CANCEL = """
    INSERT INTO {schema}.cancelled AS kept (id, until)
    SELECT id, clock_timestamp() + %(ttl)s * interval '1 second' FROM unnest(%(ids)b::text[]) AS id
    ON CONFLICT (id) DO UPDATE SET until = greatest(kept.until, excluded.until) RETURNING 1"""
SWEEP_CANCELLED = f"""
    DELETE FROM {{schema}}.cancelled WHERE id IN (
        SELECT id FROM {{schema}}.cancelled WHERE until <= (SELECT clock_timestamp()) ORDER BY until LIMIT {SLICE}
        FOR UPDATE SKIP LOCKED)
    RETURNING 1"""
CANCELLED = "SELECT id FROM {schema}.cancelled WHERE id = ANY (%(ids)b::text[]) AND until > clock_timestamp()"

_STATE = """
    CASE WHEN due IS NULL OR due <= clock_timestamp() THEN 'ready'
         WHEN token IS NULL THEN 'delayed' ELSE 'leased' END"""
# The newest attempt of an id speaks for it.
FIND = f"""
    SELECT DISTINCT ON (id) id, state FROM (
        SELECT id, attempt, true AS alive, {_STATE} AS state FROM {{schema}}.message WHERE id = ANY (%(ids)b::text[])
        UNION ALL
        SELECT id, attempt, false, 'dead' FROM {{schema}}.dead WHERE id = ANY (%(ids)b::text[])) AS stored
    ORDER BY id, attempt DESC, alive DESC"""
# Each step of the recursion finds the next name in an index, however many rows have it.
_NAMES = """
    (WITH RECURSIVE name (queue) AS (
        SELECT min(queue) FROM {{schema}}.{table} WHERE {which}
        UNION ALL
        SELECT (SELECT min(queue) FROM {{schema}}.{table} WHERE queue > name.queue AND {which}) FROM name
        WHERE name.queue IS NOT NULL)
    SELECT queue FROM name WHERE queue IS NOT NULL)"""
QUEUES = " UNION ".join(
    _NAMES.format(table=table, which=which)
    for table, which in (("message", "due IS NULL"), ("message", "due IS NOT NULL"), ("dead", "true"))
)
_IN_QUEUE = "SELECT count(*) FROM {schema}.message AS m WHERE m.queue = asked.queue AND"
SIZES = f"""
    SELECT asked.queue, ({_IN_QUEUE} due IS NULL) + ({_IN_QUEUE} due <= now),
           ({_IN_QUEUE} due > now AND token IS NULL), ({_IN_QUEUE} due > now AND token IS NOT NULL),
           (SELECT count(*) FROM {{schema}}.dead AS d WHERE d.queue = asked.queue)
    FROM unnest(%(queues)b::text[]) AS asked (queue), (SELECT clock_timestamp() AS now) AS clock"""

# The columns of PEEK and DEAD, as `Waiting` calls them.
SHOWN = (
    *("id", "queue", "body", "priority", "attempt", "delivery_count", "published"),
    *("delay", "state", "reason", "buried"),
)
PEEK = f"""
    SELECT id, queue, body, priority, attempt, deliveries, date_part('epoch', published),
           greatest(0, coalesce(date_part('epoch', due - clock_timestamp()), 0))::float8, {_STATE}, '', NULL
    FROM (
        (SELECT * FROM {{schema}}.message WHERE queue = %(queue)s AND due IS NULL
         ORDER BY priority DESC, seq LIMIT %(limit)s)
        UNION ALL
        (SELECT * FROM {{schema}}.message WHERE queue = %(queue)s AND due IS NOT NULL ORDER BY due LIMIT %(limit)s)
    ) AS stored
    ORDER BY due NULLS FIRST, priority DESC, seq LIMIT %(limit)s"""
PURGE = f"""
    DELETE FROM {{schema}}.message WHERE ctid = ANY (ARRAY(
        (SELECT ctid FROM {{schema}}.message WHERE queue = %(queue)s AND due IS NULL LIMIT {SLICE} FOR UPDATE)))
        OR ctid = ANY (ARRAY(
        (SELECT ctid FROM {{schema}}.message
         WHERE queue = %(queue)s AND due IS NOT NULL AND (token IS NULL OR due <= clock_timestamp()) LIMIT {SLICE}
         FOR UPDATE)))
    RETURNING 1"""

_CHOSEN = "queue = %(queue)s AND (%(ids)b::text[] IS NULL OR id = ANY (%(ids)b::text[]))"
DEAD = f"""
    SELECT id, queue, body, priority, attempt, deliveries, date_part('epoch', published), 0.0::float8, 'dead',
           reason, date_part('epoch', buried)
    FROM {{schema}}.dead WHERE {_CHOSEN} ORDER BY seq LIMIT %(limit)s"""
# A letter whose (id, attempt) waits already, be it that it was published again or that an older letter of that name has
# gone back just now, stays dead: it must not run twice.
REPLAY = f"""
    WITH letter AS MATERIALIZED (
        SELECT * FROM {{schema}}.dead WHERE {_CHOSEN} AND seq > %(after)s ORDER BY seq LIMIT {SLICE} FOR UPDATE),
    oldest AS (SELECT DISTINCT ON (id, attempt) * FROM letter ORDER BY id, attempt, seq),
    back AS (
        INSERT INTO {{schema}}.message (id, attempt, queue, priority, published, body)
        SELECT id, attempt, queue, priority, published, body FROM oldest ORDER BY seq
        ON CONFLICT (id, attempt) DO NOTHING RETURNING id, attempt),
    gone AS (
        DELETE FROM {{schema}}.dead WHERE seq IN (SELECT seq FROM oldest NATURAL JOIN back) RETURNING 1)
    SELECT (SELECT max(seq) FROM letter), (SELECT count(*) FROM gone)"""
DISCARD = f"""
    DELETE FROM {{schema}}.dead WHERE seq IN (
        SELECT seq FROM {{schema}}.dead WHERE {_CHOSEN} ORDER BY seq LIMIT {SLICE} FOR UPDATE)
    RETURNING 1"""
