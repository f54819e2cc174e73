"""The first tables of the ledger, as SQL; `migrations.py` has what came later.

Times are ISO 8601 UTC text, except `lease_until`, which is seconds since the epoch because it is
compared. `kind` is 'stories' or 'dialogues'. `layer` is the 0-based index of a decoder block.
`attempts` counts the tries of a text that ended with a verdict or in silence, and the running one;
`crashes` counts how often the engine died while the text was leased.
"""

STATUSES = "('pending', 'leased', 'done', 'rejected', 'failed')"


def _text_table(name: str, subject: str, unique: str) -> str:
    return f"""
CREATE TABLE {name} (
    id INTEGER PRIMARY KEY,
    corpus TEXT NOT NULL REFERENCES corpora(corpus),
    {subject}
    topic TEXT NOT NULL,
    slot INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN {STATUSES}),
    text TEXT,
    words INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    generator TEXT,
    reply_id INTEGER REFERENCES replies(id),
    seed INTEGER NOT NULL,
    owner TEXT,
    lease_until REAL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE ({unique}),
    CHECK ((status = 'done') = (text IS NOT NULL)),
    CHECK ((status = 'leased') = (owner IS NOT NULL))
) STRICT"""


LEDGER = (
    """
CREATE TABLE corpora (
    corpus TEXT PRIMARY KEY,
    protocol_digest TEXT NOT NULL,
    protocol_files TEXT NOT NULL,
    protocol_folder TEXT,
    created_at TEXT NOT NULL
) STRICT""",
    """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    settings TEXT NOT NULL,
    inputs TEXT,
    code_version TEXT NOT NULL,
    protocol_digest TEXT,
    reader TEXT,
    corpus TEXT,
    model TEXT,
    model_revision TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT
) STRICT""",
    """
CREATE TABLE replies (
    id INTEGER PRIMARY KEY,
    run_id INTEGER REFERENCES runs(id),
    corpus TEXT NOT NULL,
    kind TEXT NOT NULL,
    prompt_sha TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    seed INTEGER,
    raw TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER,
    output_tokens INTEGER,
    latency_s REAL,
    created_at TEXT NOT NULL
) STRICT""",
    """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    run_id INTEGER REFERENCES runs(id),
    kind TEXT NOT NULL,
    text_ids TEXT NOT NULL,
    sent_at TEXT NOT NULL,
    outcome TEXT,
    reply_id INTEGER REFERENCES replies(id)
) STRICT""",
    _text_table("stories", "emotion TEXT NOT NULL,", "corpus, emotion, topic, slot"),
    _text_table("dialogues", "", "corpus, topic, slot"),
    "CREATE INDEX calls_open ON calls (id) WHERE outcome IS NULL",
    "CREATE INDEX stories_pending ON stories (corpus, crashes, id) WHERE status = 'pending'",
    "CREATE INDEX dialogues_pending ON dialogues (corpus, crashes, id) WHERE status = 'pending'",
    "CREATE INDEX stories_leased ON stories (corpus, lease_until) WHERE status = 'leased'",
    "CREATE INDEX dialogues_leased ON dialogues (corpus, lease_until) WHERE status = 'leased'",
    "CREATE INDEX stories_status ON stories (corpus, emotion, status, reason)",
    "CREATE INDEX dialogues_status ON dialogues (corpus, status, reason)",
    """
CREATE TABLE arrays (
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    kind TEXT NOT NULL,
    settings TEXT NOT NULL,
    chunk_rows INTEGER NOT NULL,
    d_model INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (reader, corpus, kind)
) STRICT""",
    """
CREATE TABLE activations (
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    kind TEXT NOT NULL,
    text_id INTEGER NOT NULL,
    row INTEGER NOT NULL,
    text_sha TEXT NOT NULL,
    tokens_sha TEXT,
    tokens INTEGER,
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'done', 'rejected', 'failed')),
    reason TEXT,
    PRIMARY KEY (reader, corpus, kind, text_id),
    UNIQUE (reader, corpus, kind, row),
    FOREIGN KEY (reader, corpus, kind) REFERENCES arrays (reader, corpus, kind)
) STRICT""",
    """
CREATE TABLE receipts (
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    kind TEXT NOT NULL,
    layer INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (reader, corpus, kind, layer, chunk),
    FOREIGN KEY (reader, corpus, kind) REFERENCES arrays (reader, corpus, kind)
) STRICT""",
    """
CREATE TABLE vectors (
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    variant TEXT NOT NULL CHECK (variant IN ('raw', 'denoised')),
    layer INTEGER NOT NULL,
    emotions TEXT NOT NULL,
    settings TEXT NOT NULL,
    inputs TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    PRIMARY KEY (reader, corpus, variant, layer)
) STRICT""",
    """
CREATE TABLE metrics (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    analysis TEXT NOT NULL,
    metric TEXT NOT NULL,
    layer INTEGER,
    subject TEXT,
    value REAL,
    n INTEGER,
    chance REAL,
    ci_low REAL,
    ci_high REAL,
    p_value REAL,
    passed INTEGER,
    threshold REAL
) STRICT""",
    "CREATE INDEX metrics_current ON metrics (reader, corpus, analysis, run_id, metric, layer)",
    """
CREATE TABLE tables (
    id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    analysis TEXT NOT NULL,
    name TEXT NOT NULL,
    layer INTEGER,
    columns TEXT NOT NULL,
    rows TEXT NOT NULL
) STRICT""",
    "CREATE INDEX tables_current ON tables (reader, corpus, analysis, run_id)",
    """
CREATE TABLE published (
    source TEXT NOT NULL,
    model TEXT NOT NULL,
    metric TEXT NOT NULL,
    value REAL,
    note TEXT NOT NULL,
    PRIMARY KEY (source, model, metric)
) STRICT""",
    """
CREATE VIEW completeness AS
SELECT corpus, emotion,
       sum(status = 'done') AS done,
       sum(status = 'rejected') AS rejected,
       sum(status = 'failed') AS failed,
       sum(status IN ('pending', 'leased')) AS missing
FROM stories GROUP BY corpus, emotion""",
    """
CREATE VIEW current_metrics AS
SELECT m.* FROM metrics m
WHERE m.run_id = (SELECT max(r.run_id) FROM metrics r
                  WHERE r.reader = m.reader AND r.corpus = m.corpus AND r.analysis = m.analysis)""",
    """
CREATE VIEW scoreboard AS
SELECT reader, corpus,
       max(CASE WHEN metric = 'V1' THEN value END) AS V1,
       max(CASE WHEN metric = 'V2' THEN value END) AS V2,
       max(CASE WHEN metric = 'V3' THEN value END) AS V3,
       max(CASE WHEN metric = 'V4' THEN value END) AS V4,
       max(CASE WHEN metric = 'V5' THEN value END) AS V5,
       max(CASE WHEN metric = 'V6' THEN value END) AS V6,
       max(CASE WHEN metric = 'V7' THEN value END) AS V7,
       max(CASE WHEN metric = 'V8' THEN value END) AS V8,
       max(CASE WHEN metric = 'V9' THEN value END) AS V9,
       max(CASE WHEN metric = 'V10' THEN value END) AS V10,
       max(CASE WHEN metric = 'V11' THEN value END) AS V11
FROM current_metrics WHERE subject IS NULL AND metric GLOB 'V[0-9]*' GROUP BY reader, corpus""",
)
