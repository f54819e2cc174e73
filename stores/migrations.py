"""What was added to the tables of the ledger after its first version, as SQL, step by step.

`database.py` applies the steps in order; one that was ever released is not changed again.
"""

GENERATION_AT_SCALE = (
    "ALTER TABLE replies ADD COLUMN provider_reason TEXT",
    "ALTER TABLE replies ADD COLUMN thinking_tokens INTEGER",
    "ALTER TABLE replies ADD COLUMN cost_usd REAL",
    "ALTER TABLE replies ADD COLUMN response_id TEXT",
    "ALTER TABLE replies ADD COLUMN model_version TEXT",
    "ALTER TABLE replies ADD COLUMN endpoint TEXT",
    "ALTER TABLE replies ADD COLUMN asked INTEGER",
    "ALTER TABLE replies ADD COLUMN found INTEGER",
    "ALTER TABLE corpora ADD COLUMN marks_rule TEXT",
    "CREATE INDEX replies_corpus ON replies (corpus, kind, id)",
    "CREATE INDEX calls_reply ON calls (reply_id) WHERE reply_id IS NOT NULL",
    """
CREATE TABLE verdicts (
    reply_id INTEGER NOT NULL REFERENCES replies(id),
    text_id INTEGER NOT NULL,
    corpus TEXT NOT NULL,
    kind TEXT NOT NULL,
    part INTEGER,
    attempt INTEGER NOT NULL,
    reason TEXT,
    PRIMARY KEY (reply_id, text_id)
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX verdicts_text ON verdicts (kind, text_id)",
    "CREATE INDEX verdicts_reason ON verdicts (corpus, kind, reason)",
    """
CREATE TABLE marks (
    mark INTEGER NOT NULL,
    text_id INTEGER NOT NULL,
    PRIMARY KEY (mark, text_id)
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE budgets (
    stage TEXT NOT NULL,
    model TEXT NOT NULL,
    device TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (stage, model, device)
) STRICT""",
)

EXTRACTION_AT_SCALE = (
    "ALTER TABLE receipts ADD COLUMN norm REAL",
    "ALTER TABLE receipts ADD COLUMN done INTEGER",
)

SWEEPS = (
    """
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY,
    reader TEXT NOT NULL,
    digest TEXT NOT NULL,
    settings TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    UNIQUE (reader, digest)
) STRICT""",
    """
CREATE TABLE questions (
    sweep_id INTEGER NOT NULL REFERENCES sweeps(id),
    question INTEGER NOT NULL,
    first INTEGER NOT NULL,
    second INTEGER NOT NULL,
    text TEXT NOT NULL,
    read_token TEXT NOT NULL,
    read_at INTEGER NOT NULL,
    words_first TEXT NOT NULL,
    span_first TEXT NOT NULL,
    words_second TEXT NOT NULL,
    span_second TEXT NOT NULL,
    steered TEXT NOT NULL,
    PRIMARY KEY (sweep_id, question)
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE arms (
    id INTEGER PRIMARY KEY,
    sweep_id INTEGER NOT NULL REFERENCES sweeps(id),
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    strength REAL NOT NULL,
    layers TEXT NOT NULL,
    norms TEXT NOT NULL,
    drift REAL,
    method TEXT,
    reason TEXT,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    UNIQUE (sweep_id, digest)
) STRICT""",
    """
CREATE TABLE answers (
    arm_id INTEGER NOT NULL REFERENCES arms(id),
    question INTEGER NOT NULL,
    logit_a REAL NOT NULL,
    logit_b REAL NOT NULL,
    PRIMARY KEY (arm_id, question)
) STRICT, WITHOUT ROWID""",
)
