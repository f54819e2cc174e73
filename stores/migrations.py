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

EXTERNAL_TEXT = (
    """
CREATE TABLE samples (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    digest TEXT NOT NULL,
    settings TEXT NOT NULL,
    seen INTEGER,
    skipped TEXT,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    finished_at TEXT,
    UNIQUE (source, digest)
) STRICT""",
    """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    sample_id INTEGER NOT NULL REFERENCES samples(id),
    rank INTEGER NOT NULL,
    place TEXT NOT NULL,
    part TEXT,
    text TEXT NOT NULL,
    characters INTEGER NOT NULL,
    text_sha TEXT NOT NULL,
    UNIQUE (sample_id, text_sha)
) STRICT""",
    "CREATE INDEX documents_order ON documents (sample_id, rank)",
    """
CREATE TABLE projections (
    id INTEGER PRIMARY KEY,
    sample_id INTEGER NOT NULL REFERENCES samples(id),
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    digest TEXT NOT NULL,
    settings TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    finished_at TEXT,
    UNIQUE (sample_id, reader, corpus, digest)
) STRICT""",
    """
CREATE TABLE projected (
    projection_id INTEGER NOT NULL REFERENCES projections(id),
    document_id INTEGER NOT NULL REFERENCES documents(id),
    chunk INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'rejected', 'failed')),
    reason TEXT,
    tokens INTEGER,
    cut INTEGER NOT NULL,
    PRIMARY KEY (projection_id, document_id)
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE document_scores (
    projection_id INTEGER NOT NULL REFERENCES projections(id),
    layer INTEGER NOT NULL,
    document_id INTEGER NOT NULL REFERENCES documents(id),
    norm REAL NOT NULL,
    scores TEXT NOT NULL,
    PRIMARY KEY (projection_id, layer, document_id)
) STRICT""",
    """
CREATE TABLE token_summaries (
    projection_id INTEGER NOT NULL REFERENCES projections(id),
    layer INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    moments BLOB NOT NULL,
    quantiles BLOB NOT NULL,
    PRIMARY KEY (projection_id, layer, chunk)
) STRICT""",
    """
CREATE TABLE snippets (
    projection_id INTEGER NOT NULL REFERENCES projections(id),
    layer INTEGER NOT NULL,
    emotion TEXT NOT NULL,
    document_id INTEGER NOT NULL REFERENCES documents(id),
    first INTEGER NOT NULL,
    score REAL NOT NULL,
    tokens TEXT NOT NULL,
    heat TEXT NOT NULL,
    PRIMARY KEY (projection_id, layer, emotion, document_id)
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE judgements (
    id INTEGER PRIMARY KEY,
    projection_id INTEGER NOT NULL REFERENCES projections(id),
    layer INTEGER NOT NULL,
    emotion TEXT NOT NULL,
    document_id INTEGER NOT NULL REFERENCES documents(id),
    first INTEGER NOT NULL,
    asked TEXT NOT NULL,
    judge TEXT NOT NULL,
    prompt_sha TEXT NOT NULL,
    score REAL,
    reason TEXT,
    reply_id INTEGER REFERENCES replies(id),
    created_at TEXT NOT NULL,
    UNIQUE (projection_id, layer, emotion, document_id, first, asked, judge, prompt_sha)
) STRICT""",
)

SAE_CODES = (
    """
CREATE TABLE encodings (
    id INTEGER PRIMARY KEY,
    reader TEXT NOT NULL,
    corpus TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    settings TEXT NOT NULL,
    run_id INTEGER NOT NULL REFERENCES runs(id),
    created_at TEXT NOT NULL,
    finished_at TEXT,
    UNIQUE (reader, corpus, name, digest)
) STRICT""",
    """
CREATE TABLE codes (
    encoding_id INTEGER NOT NULL REFERENCES encodings(id),
    kind TEXT NOT NULL CHECK (kind IN ('stories', 'dialogues')),
    bank TEXT NOT NULL CHECK (bank IN ('sae', 'control')),
    text_id INTEGER NOT NULL,
    text_sha TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'rejected', 'failed')),
    reason TEXT,
    tokens INTEGER NOT NULL,
    l0 REAL,
    error REAL,
    square REAL,
    features BLOB,
    means BLOB,
    PRIMARY KEY (encoding_id, kind, bank, text_id)
) STRICT""",
)
