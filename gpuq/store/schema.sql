-- Schema 4 of the controller's database: what decisions are made from, and what was decided.
--
-- A job is named by one integer, its key: number << 32 | (index + 1), the low half 0 for a job or array as submitted.
-- So keys ascend in submit order, the elements of an array follow it in one range, and every index ends in submit order.
-- columns.py turns keys into ids ('1042', '1042_7') and back; in sqlite3: key >> 32, (key & 4294967295) - 1.
--
-- Columns hold what is filtered, sorted or checked; JSON text (gpuq.codec) holds the nested rest. Times are wall seconds.
-- No STRICT tables and no foreign keys: SQLite 3.34 must open this, and one decision may write its rows in any order.

PRAGMA application_id = 1735423345; -- 'gpuq'

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE jobs (
    key                        INTEGER PRIMARY KEY CHECK (key > 0),
    array_of                   INTEGER, -- number of the array an element belongs to; NULL for a job or array as submitted
    name                       TEXT NOT NULL,
    user                       TEXT NOT NULL,
    queue                      TEXT NOT NULL,
    priority                   INTEGER NOT NULL,
    request                    TEXT NOT NULL,
    state                      TEXT NOT NULL CHECK (state IN (
                                   'QUEUED', 'ALLOCATED', 'STARTING', 'RUNNING', 'STOPPING', 'LOST',
                                   'SUCCEEDED', 'FAILED', 'CANCELED')),
    submitted_at               REAL NOT NULL,
    queued_at                  REAL NOT NULL,
    array                      TEXT,
    held_by                    TEXT,
    waits_for                  TEXT,
    eligible_at                REAL,
    time_limit_seconds         INTEGER,
    scheduling_timeout_seconds INTEGER,
    grace_seconds              INTEGER NOT NULL,
    max_retries                INTEGER NOT NULL,
    retries_used               INTEGER NOT NULL,
    max_losses                 INTEGER NOT NULL,
    losses_used                INTEGER NOT NULL,
    requeue                    INTEGER NOT NULL CHECK (requeue IN (0, 1)),
    on_lost                    TEXT NOT NULL,
    comment                    TEXT NOT NULL,
    claim                      TEXT, -- room kept for it, as ranks
    attempt                    INTEGER NOT NULL CHECK (attempt >= 0),
    started_at                 REAL,
    finished_at                REAL,
    exit_code                  INTEGER,
    signal                     INTEGER,
    cause                      TEXT,
    CHECK ((key & 4294967295 <> 0) = (array_of IS NOT NULL)),
    -- History is ordered by finished_at: a job that ended without one would be in no list.
    CHECK (finished_at IS NOT NULL OR state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED'))
);

-- Start-up and lists of live jobs; as small as the queue is.
CREATE INDEX jobs_live ON jobs (state) WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED');
-- Lists in submit order. Elements stay out: they are listed under their array.
CREATE INDEX jobs_submitted ON jobs (key) WHERE array_of IS NULL;
CREATE INDEX jobs_user ON jobs (user) WHERE array_of IS NULL;
CREATE INDEX jobs_name ON jobs (name) WHERE array_of IS NULL;
-- History, latest end first. Queues are few, so a history of one queue is found by walking that of all.
CREATE INDEX jobs_ended ON jobs (state, finished_at)
    WHERE array_of IS NULL AND state IN ('SUCCEEDED', 'FAILED', 'CANCELED');
CREATE INDEX jobs_ended_user ON jobs (user, state, finished_at)
    WHERE array_of IS NULL AND state IN ('SUCCEEDED', 'FAILED', 'CANCELED');
-- Elements of an array, and how many are in which state, without reading their rows.
CREATE INDEX jobs_elements ON jobs (array_of, state) WHERE array_of IS NOT NULL;

-- One row for a job or an array. command and cwd stand apart, so that lists need not read scripts and environments.
CREATE TABLE specs (
    job     INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    cwd     TEXT,
    rest    TEXT NOT NULL
);

CREATE TABLE attempts (
    uid        TEXT PRIMARY KEY,
    job        INTEGER NOT NULL,
    number     INTEGER NOT NULL CHECK (number >= 1),
    ranks      TEXT NOT NULL,
    granted_at REAL NOT NULL,
    on_lost    TEXT NOT NULL,
    port       INTEGER, -- on the node of rank 0, where there are more ranks
    stop       TEXT,
    lost_since REAL,
    ended_at   REAL,
    cause      TEXT
);

CREATE INDEX attempts_job ON attempts (job, number);
-- Quotas of GPU-hours: what ended in the last 30 days.
CREATE INDEX attempts_ended ON attempts (ended_at) WHERE ended_at IS NOT NULL;
-- A job never has two live attempts.
CREATE UNIQUE INDEX attempts_live ON attempts (job) WHERE ended_at IS NULL;

-- What each attempt holds, or held: one row per GPU, with its share of the memory where it does not hold all of it.
CREATE TABLE grants (
    attempt     TEXT NOT NULL,
    rank        INTEGER NOT NULL,
    gpu_index   INTEGER NOT NULL,
    node        TEXT NOT NULL,
    live        INTEGER NOT NULL CHECK (live IN (0, 1)),
    share_bytes INTEGER, -- NULL: the whole GPU
    PRIMARY KEY (attempt, rank, gpu_index)
) WITHOUT ROWID;

-- A GPU never has two holders, nor beside one that holds it whole others that share it.
CREATE UNIQUE INDEX grants_live ON grants (node, gpu_index) WHERE live = 1 AND share_bytes IS NULL;
CREATE INDEX grants_shared ON grants (node, gpu_index) WHERE live = 1 AND share_bytes IS NOT NULL;
CREATE TRIGGER grants_added AFTER INSERT ON grants WHEN NEW.live = 1 BEGIN
    SELECT RAISE(ABORT, 'grants: a GPU would be held whole and shared')
    WHERE EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index)
      AND EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NOT NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index);
END;
CREATE TRIGGER grants_revived AFTER UPDATE OF live ON grants WHEN NEW.live = 1 BEGIN
    SELECT RAISE(ABORT, 'grants: a GPU would be held whole and shared')
    WHERE EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index)
      AND EXISTS (SELECT 1 FROM grants WHERE live = 1 AND share_bytes IS NOT NULL
                  AND node = NEW.node AND gpu_index = NEW.gpu_index);
END;

CREATE TABLE nodes (
    name        TEXT PRIMARY KEY,
    cordoned    INTEGER NOT NULL CHECK (cordoned IN (0, 1)),
    draining    INTEGER NOT NULL CHECK (draining IN (0, 1)),
    cordon_text TEXT NOT NULL,
    boot_id     TEXT,
    inventory   TEXT,
    enrolled_at REAL NOT NULL
);

-- The journal. AUTOINCREMENT: an id is the cursor of streams and is never given twice.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      REAL NOT NULL,
    kind    TEXT NOT NULL,
    text    TEXT NOT NULL,
    job     INTEGER,
    attempt INTEGER,
    node    TEXT,
    user    TEXT,
    address TEXT
);

CREATE INDEX events_kind ON events (kind);
CREATE INDEX events_job ON events (job >> 32) WHERE job IS NOT NULL; -- an array with all its elements
CREATE INDEX events_element ON events (job) WHERE job & 4294967295 <> 0;
CREATE INDEX events_node ON events (node) WHERE node IS NOT NULL;
CREATE INDEX events_user ON events (user) WHERE user IS NOT NULL;

CREATE TABLE replies (
    request_id TEXT PRIMARY KEY,
    user       TEXT NOT NULL,
    at         REAL NOT NULL,
    body       TEXT NOT NULL
);

CREATE INDEX replies_at ON replies (at);

CREATE TABLE tokens (
    id            TEXT PRIMARY KEY,
    secret_sha256 TEXT NOT NULL UNIQUE,
    role          TEXT NOT NULL,
    user          TEXT NOT NULL,
    node          TEXT,
    created_at    REAL NOT NULL,
    expires_at    REAL,
    revoked_at    REAL
);

CREATE TABLE users (
    name        TEXT PRIMARY KEY,
    role        TEXT NOT NULL,
    created_at  REAL NOT NULL,
    disabled_at REAL
);
