"""The tables of the PostgreSQL store, and the functions in the database by which they are read and changed.

Whoever changes partitions locks their rows in `store_part` first, in the order of their names, and looks at the rest
only then: so changes of one partition happen one after the other, each seeing all that came before, and nobody waits
in a circle. Functions, because a batch is then one round trip and one transaction, whatever is decided on the way.

Instants are seconds since 1970 by the server's clock, as in the port.
"""

from __future__ import annotations

from dray_brokers.postgres_schema import Part

#: For what is called from outside. The planner goes by statistics that may be of the time when a table was empty, and
#: keeps its plan while it grows.
BY_INDEX = (
    "SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off "
    "SET plan_cache_mode = force_generic_plan"
)
#: Rows that are written again and again: vacuumed often, and with room for the next version beside the last.
CHURN = """WITH (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 10000
)"""


def _function(head: str, how: str, body: str) -> str:
    return f"CREATE FUNCTION {{schema}}.{head} LANGUAGE plpgsql {how} AS $body$ {body} $body$"


PARTS = f"""
CREATE TABLE {{schema}}.store_part (
    part text COLLATE "C" PRIMARY KEY,
    expires float8 NOT NULL DEFAULT 'infinity',
    token bigint NOT NULL DEFAULT 0,            -- the fencing token given out last
    full_at float8                              -- as a bucket: when it will be full
) {CHURN}"""
PARTS_BY_EXPIRY = "CREATE INDEX store_expires ON {schema}.store_part (expires) WHERE expires < 'infinity'"
RECORDS = f"""
CREATE TABLE {{schema}}.store_record (
    part text COLLATE "C",
    key text COLLATE "C",
    value bytea NOT NULL,
    PRIMARY KEY (part, key)
) {CHURN}"""
ENTRIES = f"""
CREATE TABLE {{schema}}.store_entry (
    at float8 NOT NULL,
    name text COLLATE "C" NOT NULL,             -- of the index
    part text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL
) {CHURN}"""
# What a B-tree holds has 2704 bytes at most, and three names of 250 characters may have 3000: the head of the third
# will do. That there is but one entry of a name is seen to under the partition's lock.
ENTRIES_BY_PART = "CREATE INDEX store_entry_of ON {schema}.store_entry (part, key, left(name, 100))"
ENTRIES_BY_TIME = "CREATE INDEX store_due ON {schema}.store_entry (left(name, 100), at, part, key)"
PLACES = f"""
CREATE TABLE {{schema}}.store_place (
    part text COLLATE "C",
    holder text COLLATE "C",
    token bigint NOT NULL,
    until float8 NOT NULL,
    PRIMARY KEY (part, holder)
) {CHURN}"""

NOW = "SELECT date_part('epoch', clock_timestamp())::float8"

# Leaves partitions as new ones are.
FORGET = _function(
    "store_forget(gone text[]) RETURNS void",
    "VOLATILE",
    """
    BEGIN
        DELETE FROM {schema}.store_record WHERE part = ANY (gone);
        DELETE FROM {schema}.store_entry WHERE part = ANY (gone);
        DELETE FROM {schema}.store_place WHERE part = ANY (gone);
        UPDATE {schema}.store_part SET expires = 'infinity', token = 0, full_at = NULL WHERE part = ANY (gone);
    END""",
)
# Rows are updated, not only locked: a transaction whose isolation hides what others did meanwhile is refused by the
# server then, and tried again, and never decides by what it cannot see.
LOCK = _function(
    "store_lock(wanted text[]) RETURNS float8",
    "VOLATILE",
    """
    DECLARE
        gone text[];
    BEGIN
        WITH locked AS (
            INSERT INTO {schema}.store_part AS kept (part)
            SELECT DISTINCT name COLLATE "C" FROM unnest(wanted) AS each (name) ORDER BY 1
            ON CONFLICT (part) DO UPDATE SET token = kept.token
            RETURNING part, expires)
        SELECT array_agg(part) INTO gone FROM locked WHERE expires <= date_part('epoch', clock_timestamp());
        IF gone IS NOT NULL THEN
            PERFORM {schema}.store_forget(gone);
        END IF;
        RETURN date_part('epoch', clock_timestamp());
    END""",
)
TIDY = _function(
    "store_tidy(emptied text[]) RETURNS void",
    "VOLATILE",
    """
    BEGIN
        DELETE FROM {schema}.store_part AS p
        WHERE p.part = ANY (emptied) AND p.token = 0 AND p.full_at IS NULL
            AND NOT EXISTS (SELECT FROM {schema}.store_record AS r WHERE r.part = p.part)
            AND NOT EXISTS (SELECT FROM {schema}.store_entry AS e WHERE e.part = p.part);
    END""",
)
SUM = _function(
    "store_sum(key text, count bytea, more bytea) RETURNS bytea",
    "IMMUTABLE",
    """
    BEGIN
        IF encode(count, 'escape') !~ '^-?[0-9]+$' THEN
            RAISE EXCEPTION USING
                ERRCODE = '22P02', MESSAGE = 'adding to ' || quote_ident(key) || ', which is no count';
        END IF;
        RETURN (encode(count, 'escape')::bigint + encode(more, 'escape')::bigint)::text::bytea;
    END""",
)
# Change number n has the steps up to the n-th of `ends`. A row comes back for each change that was refused, without a
# name, and for each key that was to be read and is there.
COMMIT = _function(
    """store_commit(parts text[], ttls float8[], ends int[], kinds text[], names text[], keys text[], datas bytea[])
    RETURNS TABLE (number int, wanted text, content bytea)""",
    BY_INDEX,
    """
    DECLARE
        instant float8 := {schema}.store_lock(parts);
        step int := 0;
        refused boolean;
        emptied boolean := false;
        p text;
        k text;
    BEGIN
        FOR change IN 1 .. cardinality(parts) LOOP
            p := parts[change];
            number := change;
            refused := false;
            WHILE step < ends[change] LOOP
                step := step + 1;
                k := keys[step];
                IF kinds[step] = 'read' THEN
                    SELECT value INTO content FROM {schema}.store_record WHERE part = p AND key = k;
                    IF FOUND THEN
                        wanted := k;
                        RETURN NEXT;
                    END IF;
                    CONTINUE;
                END IF;
                CONTINUE WHEN refused;
                CASE kinds[step]
                WHEN 'put' THEN
                    INSERT INTO {schema}.store_record (part, key, value) VALUES (p, k, datas[step])
                    ON CONFLICT (part, key) DO UPDATE SET value = excluded.value;
                WHEN 'add' THEN
                    INSERT INTO {schema}.store_record AS kept (part, key, value)
                    VALUES (p, k, {schema}.store_sum(k, '0', datas[step]))
                    ON CONFLICT (part, key) DO UPDATE SET value = {schema}.store_sum(k, kept.value, datas[step]);
                WHEN 'delete' THEN
                    DELETE FROM {schema}.store_record WHERE part = p AND key = k;
                    emptied := true;
                WHEN 'index' THEN
                    UPDATE {schema}.store_entry SET at = encode(datas[step], 'escape')::float8
                    WHERE part = p AND key = k AND left(name, 100) = left(names[step], 100) AND name = names[step];
                    IF NOT FOUND THEN
                        INSERT INTO {schema}.store_entry (at, name, part, key)
                        VALUES (encode(datas[step], 'escape')::float8, names[step], p, k);
                    END IF;
                WHEN 'unindex' THEN
                    DELETE FROM {schema}.store_entry
                    WHERE part = p AND key = k AND left(name, 100) = left(names[step], 100) AND name = names[step];
                    emptied := true;
                WHEN 'absent' THEN
                    refused := EXISTS (SELECT FROM {schema}.store_record WHERE part = p AND key = k);
                WHEN 'present' THEN
                    refused := NOT EXISTS (SELECT FROM {schema}.store_record WHERE part = p AND key = k);
                WHEN 'equals' THEN
                    refused := NOT EXISTS (
                        SELECT FROM {schema}.store_record WHERE part = p AND key = k AND value = datas[step]);
                END CASE;
                IF refused THEN
                    emptied := true;
                    wanted := NULL;
                    content := NULL;
                    RETURN NEXT;
                END IF;
            END LOOP;
            IF ttls[change] IS NOT NULL AND NOT refused THEN
                UPDATE {schema}.store_part SET expires = instant + ttls[change] WHERE part = p;
                IF ttls[change] <= 0 THEN
                    PERFORM {schema}.store_forget(ARRAY[p]);
                    emptied := true;
                END IF;
            END IF;
        END LOOP;
        IF emptied THEN
            PERFORM {schema}.store_tidy(parts);
        END IF;
    END""",
)
# The limits within are walls to the planner: it goes from key to key, whatever it believes of the tables.
READ = _function(
    "store_read(parts text[], keys text[]) RETURNS TABLE (number int, content bytea)",
    f"STABLE {BY_INDEX}",
    """
    BEGIN
        RETURN QUERY
        SELECT each.number::int, kept.value
        FROM unnest(parts, keys) WITH ORDINALITY AS each (part, key, number), LATERAL (
            SELECT r.value FROM {schema}.store_part AS p JOIN {schema}.store_record AS r ON r.part = p.part
            WHERE p.part = each.part AND r.key = each.key AND p.expires > date_part('epoch', clock_timestamp())
            LIMIT 1) AS kept;
    END""",
)
SCAN = _function(
    """store_scan(wanted text, first text, last text, beyond text, most bigint)
    RETURNS TABLE (name text, content bytea)""",
    f"STABLE {BY_INDEX}",
    """
    BEGIN
        IF EXISTS (SELECT FROM {schema}.store_part
                   WHERE part = wanted AND expires > date_part('epoch', clock_timestamp())) THEN
            RETURN QUERY SELECT r.key, r.value FROM {schema}.store_record AS r
            WHERE r.part = wanted AND r.key >= first AND r.key <= last AND r.key > beyond ORDER BY r.key LIMIT most;
        END IF;
    END""",
)
DUE = _function(
    """store_due(wanted text, until float8, beyond float8, beyond_part text, beyond_key text, most bigint)
    RETURNS TABLE (instant float8, in_part text, name text)""",
    f"STABLE {BY_INDEX}",
    """
    BEGIN
        RETURN QUERY SELECT e.at, e.part, e.key FROM {schema}.store_entry AS e
        WHERE left(e.name, 100) = left(wanted, 100) AND e.name = wanted AND e.at <= until
            AND (e.at, e.part, e.key) > (beyond, beyond_part, beyond_key)
        ORDER BY e.at, e.part, e.key LIMIT most;
    END""",
)
# The rule is that of `Store.take`. When a bucket or a lock is forgotten is rounded up to minutes: what is indexed by it
# would otherwise be written each time.
TAKE = _function(
    """store_take(parts text[], everies float8[], bursts float8[], costs float8[], aheads float8[], keep float8)
    RETURNS SETOF float8""",
    BY_INDEX,
    """
    DECLARE
        instant float8 := {schema}.store_lock(parts);
        full_then float8;
        filling float8;
        wait float8;
        untouched boolean := false;
    BEGIN
        FOR wish IN 1 .. cardinality(parts) LOOP
            SELECT full_at INTO full_then FROM {schema}.store_part WHERE part = parts[wish];
            filling := greatest(coalesce(full_then, 0) - instant, 0) + costs[wish] * everies[wish];
            wait := greatest(round((filling - bursts[wish] * everies[wish])::numeric, 6), 0);
            IF wait <= aheads[wish] THEN
                UPDATE {schema}.store_part
                SET full_at = instant + filling, expires = ceil((instant + filling + keep) / 60) * 60
                WHERE part = parts[wish];
            ELSIF full_then IS NULL THEN
                untouched := true;
            END IF;
            RETURN NEXT wait;
        END LOOP;
        IF untouched THEN
            PERFORM {schema}.store_tidy(parts);
        END IF;
    END""",
)
HOLD = _function(
    "store_hold(parts text[], holders text[], seconds float8[], mosts bigint[], keep float8) RETURNS SETOF bigint",
    BY_INDEX,
    """
    DECLARE
        instant float8 := {schema}.store_lock(parts);
        given bigint;
        forgotten float8;
        untouched boolean := false;
    BEGIN
        FOR wish IN 1 .. cardinality(parts) LOOP
            UPDATE {schema}.store_place AS place SET until = instant + seconds[wish]
            WHERE part = parts[wish] AND holder = holders[wish] AND until > instant
            RETURNING place.token INTO given;
            IF NOT FOUND THEN
                DELETE FROM {schema}.store_place WHERE part = parts[wish] AND until <= instant;
                IF (SELECT count(*) FROM {schema}.store_place WHERE part = parts[wish]) < mosts[wish] THEN
                    UPDATE {schema}.store_part AS p SET token = p.token + 1 WHERE part = parts[wish]
                    RETURNING p.token INTO given;
                    INSERT INTO {schema}.store_place (part, holder, token, until)
                    VALUES (parts[wish], holders[wish], given, instant + seconds[wish]);
                ELSE
                    given := 0;
                END IF;
            END IF;
            IF given > 0 THEN
                forgotten := ceil((instant + seconds[wish] + keep) / 60) * 60;
                UPDATE {schema}.store_part SET expires = forgotten
                WHERE part = parts[wish] AND (expires < forgotten OR expires = 'infinity');
            ELSE
                untouched := untouched OR mosts[wish] < 1;
            END IF;
            RETURN NEXT given;
        END LOOP;
        IF untouched THEN
            PERFORM {schema}.store_tidy(parts);
        END IF;
    END""",
)
LET_GO = _function(
    "store_let_go(parts text[], holders text[]) RETURNS void",
    BY_INDEX,
    """
    BEGIN
        PERFORM FROM {schema}.store_part WHERE part = ANY (parts) ORDER BY part FOR UPDATE;
        FOR wish IN 1 .. cardinality(parts) LOOP
            DELETE FROM {schema}.store_place WHERE part = parts[wish] AND holder = holders[wish];
        END LOOP;
    END""",
)
# One that is too large to be dropped at once stays until the next sweep has dropped the rest of it: nobody sees it.
SWEEP = _function(
    "store_sweep(most_parts int, most_records int) RETURNS TABLE (dropped int, more boolean)",
    BY_INDEX,
    """
    DECLARE
        gone text;
        deleted int;
        looked_at int := 0;
    BEGIN
        dropped := 0;
        FOR gone IN SELECT part FROM {schema}.store_part
            WHERE expires < 'infinity' AND expires <= date_part('epoch', clock_timestamp())
            ORDER BY expires LIMIT most_parts FOR UPDATE SKIP LOCKED
        LOOP
            looked_at := looked_at + 1;
            DELETE FROM {schema}.store_record WHERE part = gone AND key IN (
                SELECT key FROM {schema}.store_record WHERE part = gone ORDER BY key LIMIT most_records);
            GET DIAGNOSTICS deleted = ROW_COUNT;
            most_records := most_records - deleted;
            EXIT WHEN most_records <= 0;
            DELETE FROM {schema}.store_entry WHERE part = gone;
            DELETE FROM {schema}.store_place WHERE part = gone;
            DELETE FROM {schema}.store_part WHERE part = gone;
            dropped := dropped + 1;
        END LOOP;
        more := most_records <= 0 OR looked_at = most_parts;
        RETURN NEXT;
    END""",
)

STORE = Part(
    "store",
    (
        (
            *(PARTS, PARTS_BY_EXPIRY, RECORDS, ENTRIES, ENTRIES_BY_PART, ENTRIES_BY_TIME, PLACES),
            *(FORGET, LOCK, TIDY, SUM, COMMIT, READ, SCAN, DUE, TAKE, HOLD, LET_GO, SWEEP),
        ),
    ),
)
