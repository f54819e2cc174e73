"""Read-only SQL for users: run one query, and queries ready to paste.

Knows nothing of the engine, and cannot change anything: the connection is read-only, and an
authorizer allows nothing but reading this ledger.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stores.database import open_database, storable
from stores.errors import UsageError

Cell = str | int | float | bytes | None

_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_PRAGMAS = {
    "table_info",
    "table_list",
    "table_xinfo",
    "index_list",
    "index_info",
    "foreign_key_list",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The columns and rows that a query gave."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def run_query(path: Path, sql: str) -> Answer:
    """Run one SQL query on the ledger at `path`, which may be in use by an engine.

    Raises UsageError when the query is wrong, would change something, or is several; NotReady when
    there is no ledger.
    """
    with closing(open_database(path, read_only=True)) as conn:
        conn.row_factory = None
        for function in ("json_each", "json_tree"):  # declared at first use, which is no reading
            conn.execute(f"SELECT 1 FROM {function}('[]')")
        conn.set_authorizer(_allow)
        # Python sees Ctrl-C only between its own instructions, so a long query calls back into it
        conn.set_progress_handler(lambda: 0, 100_000)
        try:
            cursor = conn.execute(storable(sql))
            rows = tuple(cursor)
        except (sqlite3.Error, sqlite3.Warning) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from None
            raise UsageError(f"SQL: {_explain(error)}") from error
        if cursor.description is None:
            raise UsageError(
                "SQL: there is no query; `cli.py sql --schema` lists tables and queries"
            )
        return Answer(tuple(column[0] for column in cursor.description), rows)


def _allow(action: int, first: str | None, *_: str | None) -> int:
    reading = action in _READING or (action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS)
    return sqlite3.SQLITE_OK if reading else sqlite3.SQLITE_DENY


def _explain(error: Exception) -> str:
    """SQLite's message with the next step."""
    message = str(error)
    if "not authorized" in message or "authorization denied" in message:
        return f"{message}; queries only read here, the engine's commands write"
    if "one statement" in message:
        return f"{message.rstrip('.')}; send one query at a time"
    return f"{message}; `cli.py sql --schema` lists tables and columns"


READY_QUERIES: dict[str, str] = {
    "How far is each corpus?": """
SELECT corpus, 'stories' AS kind, status, reason, count(*) AS n FROM stories
GROUP BY corpus, status, reason
UNION ALL
SELECT corpus, 'dialogues', status, reason, count(*) FROM dialogues
GROUP BY corpus, status, reason""",
    "Which emotions lack stories?": """
SELECT * FROM completeness WHERE missing + rejected + failed > 0
ORDER BY missing + rejected + failed DESC""",
    "Which emotions are refused, and why?": """
SELECT corpus, emotion, reason, count(*) AS n FROM stories WHERE status = 'rejected'
GROUP BY corpus, emotion, reason ORDER BY n DESC""",
    "What do stories read like?": """
SELECT emotion, topic, text FROM stories WHERE status = 'done' ORDER BY id LIMIT 5""",
    "How often does each check refuse an emotion's stories?": """
SELECT s.emotion, v.reason, count(*) AS n
FROM verdicts v JOIN stories s ON s.id = v.text_id AND v.kind = 'stories'
WHERE v.reason IS NOT NULL GROUP BY s.emotion, v.reason ORDER BY n DESC""",
    "What did generation cost?": """
SELECT backend, model, finish_reason, count(*) AS replies, sum(prompt_tokens) AS prompt_tokens,
       sum(output_tokens) AS output_tokens, sum(thinking_tokens) AS thinking_tokens,
       sum(cost_usd) AS cost_usd, avg(latency_s) AS mean_latency_s
FROM replies GROUP BY backend, model, finish_reason""",
    "Which server answered how much, and how fast?": """
SELECT endpoint, model_version, count(*) AS replies, avg(latency_s) AS mean_latency_s,
       sum(output_tokens) AS output_tokens
FROM replies WHERE endpoint IS NOT NULL GROUP BY endpoint, model_version""",
    "Which replies held another number of texts than they were asked for?": """
SELECT id, asked, found, finish_reason, substr(raw, 1, 200) AS beginning
FROM replies WHERE found <> asked ORDER BY id DESC LIMIT 20""",
    "Which calls were sent and never answered?": """
SELECT id, run_id, kind, text_ids, sent_at FROM calls WHERE outcome IS NULL ORDER BY id""",
    "How far is each extraction?": """
SELECT reader, corpus, kind, status, reason, count(*) AS n, sum(tokens) AS tokens
FROM activations GROUP BY reader, corpus, kind, status, reason""",
    "Which layers are on disk?": """
SELECT reader, corpus, kind, layer, count(*) AS chunks, sum(rows) AS rows,
       sum(bytes) / 1e6 AS megabytes
FROM receipts GROUP BY reader, corpus, kind, layer""",
    "How large is the residual stream at each layer?": """
SELECT reader, corpus, layer, sum(norm * done) / sum(done) AS mean_residual_norm, sum(done) AS texts
FROM receipts WHERE done > 0 GROUP BY reader, corpus, layer ORDER BY reader, corpus, layer""",
    "How fast was each extraction?": """
SELECT m.run_id, m.reader, r.model, m.subject, m.value AS tokens_per_s, m.n AS tokens, m.layer
FROM metrics m JOIN runs r ON r.id = m.run_id WHERE m.analysis = 'extraction' ORDER BY m.run_id""",
    "How do the readers score?": """
SELECT * FROM scoreboard ORDER BY reader, corpus""",
    "Which numbers miss their threshold?": """
SELECT reader, corpus, analysis, metric, layer, value, threshold, n, p_value
FROM current_metrics WHERE passed = 0 ORDER BY reader, corpus, analysis, metric, layer""",
    "Where does a number come from?": """
SELECT m.reader, m.corpus, m.analysis, m.metric, m.layer, m.value, r.id AS run_id, r.command,
       r.settings, r.inputs, r.code_version, r.started_at
FROM current_metrics m JOIN runs r ON r.id = m.run_id WHERE m.subject IS NULL
ORDER BY m.id LIMIT 20""",
    "Which story, and which reply, is row 0 of the arrays?": """
SELECT a.reader, a.corpus, s.emotion, s.topic, s.text, p.raw AS reply
FROM activations a JOIN stories s ON s.id = a.text_id LEFT JOIN replies p ON p.id = s.reply_id
WHERE a.kind = 'stories' AND a.row = 0""",
    "How do the numbers compare with the published ones?": """
SELECT p.metric, p.source, p.model, p.value AS published, m.reader, m.corpus, m.layer,
       m.value AS ours
FROM published p JOIN current_metrics m ON m.metric = p.metric AND m.subject IS NULL
ORDER BY p.metric, p.source, m.reader""",
    "How well does each component follow valence, by layer, and by whose labels or ratings?": """
SELECT t.reader, t.corpus, t.analysis, json_extract(r.value, '$[3]') AS labels,
       json_extract(r.value, '$[0]') AS layer, json_extract(r.value, '$[1]') AS component,
       json_extract(r.value, '$[4]') AS n, json_extract(r.value, '$[5]') AS r,
       json_extract(r.value, '$[6]') AS ci_low, json_extract(r.value, '$[7]') AS ci_high,
       json_extract(r.value, '$[8]') AS p, json_extract(r.value, '$[9]') AS p_max
FROM tables t, json_each(t.rows) r
WHERE t.name = 'labels' AND json_extract(r.value, '$[2]') = 'valence'
  AND t.run_id IN (SELECT run_id FROM current_metrics WHERE metric = 'r_valence')
ORDER BY t.reader, t.corpus, t.analysis, component, layer""",
    "Which emotions are closest at each layer?": """
SELECT t.reader, t.corpus, json_extract(r.value, '$[0]') AS layer,
       json_extract(r.value, '$[1]') AS emotion, json_extract(r.value, '$[2]') AS other,
       json_extract(r.value, '$[3]') AS cosine
FROM tables t, json_each(t.rows) r
WHERE t.name = 'closest'
  AND t.run_id IN (SELECT run_id FROM current_metrics WHERE metric = 'emotions')
ORDER BY t.reader, t.corpus, layer, cosine DESC""",
    "How many stories of each emotion are enough?": """
SELECT reader, corpus, layer, metric, value AS stories, ci_low, ci_high, threshold AS there,
       passed AS enough
FROM current_metrics WHERE metric GLOB 'stories_for*' ORDER BY reader, corpus, metric""",
    "Which emotions have the least reliable vectors?": """
SELECT reader, corpus, layer, subject AS emotion, value AS reliability, n AS stories
FROM current_metrics
WHERE analysis = 'reliability' AND metric = 'reliability' AND subject IS NOT NULL
ORDER BY value LIMIT 20""",
    "How far do sets of vectors agree?": """
SELECT reader AS compared, subject AS sets, layer, metric, value, n, chance, ci_low, ci_high,
       p_value
FROM current_metrics WHERE analysis = 'comparison' AND subject IS NOT NULL
ORDER BY compared, sets, layer, metric""",
    "Which vectors came from files, and from which?": """
SELECT DISTINCT v.reader, v.corpus, json_extract(v.settings, '$.model') AS model,
       json_extract(f.value, '$.file') AS file, json_extract(f.value, '$.sha256') AS sha256
FROM vectors v, json_each(v.settings, '$.imported') f ORDER BY v.reader, v.corpus, file""",
    "What exactly was the model asked, and where was it read and steered?": """
SELECT s.reader, q.question, q.text, q.read_token, q.words_first, q.span_first, q.words_second,
       q.span_second, q.steered
FROM questions q JOIN sweeps s ON s.id = q.sweep_id WHERE q.question = 0 ORDER BY s.id""",
    "How far is each sweep of questions?": """
SELECT s.id AS sweep_id, s.reader, a.kind, a.layers, count(DISTINCT a.id) AS arms,
       count(n.question) AS answers, max(a.drift) AS drift, max(a.method) AS method
FROM sweeps s JOIN arms a ON a.sweep_id = s.id LEFT JOIN answers n ON n.arm_id = a.id
GROUP BY s.id, a.kind, a.layers ORDER BY s.id, min(a.id)""",
    "How often is A chosen, in each arm?": """
SELECT a.sweep_id, a.name, a.kind, a.strength, a.layers, a.norms, count(*) AS answers,
       avg(n.logit_a > n.logit_b) AS share_of_a, avg(n.logit_a - n.logit_b) AS mean_difference
FROM arms a JOIN answers n ON n.arm_id = a.id GROUP BY a.id ORDER BY a.id""",
    "What was drawn from each source of external text?": """
SELECT s.id AS sample_id, s.source, count(d.id) AS documents, s.seen, s.skipped,
       json_extract(s.settings, '$.size') AS asked_for, json_extract(s.settings, '$.seed') AS seed,
       json_extract(s.settings, '$.rule') AS rule, s.finished_at
FROM samples s LEFT JOIN documents d ON d.sample_id = s.id GROUP BY s.id ORDER BY s.id""",
    "Which parts does each source have, and how long are their documents?": """
SELECT s.id AS sample_id, s.source, d.part, count(*) AS documents,
       avg(d.characters) AS mean_characters, max(d.characters) AS most_characters
FROM documents d JOIN samples s ON s.id = d.sample_id
GROUP BY s.id, d.part ORDER BY s.id, documents DESC, d.part""",
    "How far is each projection of external text?": """
SELECT p.id AS projection_id, s.source, p.reader, p.corpus, r.status, r.reason,
       count(*) AS documents, sum(r.tokens) AS tokens, sum(r.cut) AS cut, p.finished_at
FROM projections p JOIN samples s ON s.id = p.sample_id JOIN projected r ON r.projection_id = p.id
GROUP BY p.id, r.status, r.reason ORDER BY p.id, documents DESC""",
    "Which documents excite one emotion most (here the first of its list)?": """
SELECT source, reader, corpus, layer, emotion, score, place, part, beginning FROM (
    SELECT s.source, p.id, p.reader, p.corpus, x.layer, e.value AS emotion,
           json_extract(x.scores, '$[' || e.key || ']') AS score, d.place, d.part,
           substr(d.text, 1, 200) AS beginning,
           row_number() OVER (PARTITION BY p.id, x.layer
                              ORDER BY json_extract(x.scores, '$[' || e.key || ']') DESC) AS number
    FROM projections p JOIN samples s ON s.id = p.sample_id
    JOIN json_each(p.settings, '$.emotions') e JOIN document_scores x ON x.projection_id = p.id
    JOIN documents d ON d.id = x.document_id WHERE e.key = 0)
WHERE number <= 5 ORDER BY id, layer, score DESC""",
    "Which snippet of external text excites each emotion most?": """
SELECT source, reader, corpus, layer, emotion, score, place, text FROM (
    SELECT s.source, p.id, p.reader, p.corpus, n.layer, n.emotion, n.score, d.place,
           (SELECT group_concat(value, '') FROM json_each(n.tokens)) AS text,
           row_number() OVER (PARTITION BY p.id, n.layer, n.emotion ORDER BY n.score DESC) AS number
    FROM snippets n JOIN projections p ON p.id = n.projection_id
    JOIN samples s ON s.id = p.sample_id JOIN documents d ON d.id = n.document_id)
WHERE number = 1 ORDER BY id, layer, emotion""",
    "Which emotions rank highest in each source, against neutral text?": """
SELECT reader, corpus, layer, substr(metric, 9) AS source, subject AS emotion, value, ci_low,
       ci_high, p_value
FROM current_metrics WHERE analysis = 'external' AND metric GLOB 'neutral.*'
ORDER BY reader, corpus, layer, source, value DESC""",
    "Does a judge find the emotions in their snippets?": """
SELECT j.projection_id, j.layer, j.judge, j.asked = j.emotion AS own_emotion,
       count(j.score) AS scores, avg(j.score) AS mean_score, sum(j.reason IS NOT NULL) AS unread
FROM judgements j GROUP BY j.projection_id, j.layer, j.judge, own_emotion
ORDER BY j.projection_id, j.layer, j.judge, own_emotion DESC""",
    "How far is each pass under an SAE?": """
SELECT e.id AS encoding_id, e.name, e.reader, e.corpus, c.kind, c.bank, c.status, c.reason,
       count(*) AS texts, sum(c.tokens) AS tokens, e.finished_at
FROM encodings e JOIN codes c ON c.encoding_id = e.id
GROUP BY e.id, c.kind, c.bank, c.status, c.reason
ORDER BY e.id, c.kind DESC, c.bank DESC, texts DESC""",
    "How many features fire, and how much of the activations is missed, under each SAE?": """
SELECT e.id AS encoding_id, e.name, e.reader, e.corpus, c.kind, c.bank, count(*) AS texts,
       sum(c.l0 * c.tokens) / sum(c.tokens) AS l0,
       avg(length(c.features) / 4) AS features_of_a_text,
       sum(c.error * c.tokens) / sum(c.square * c.tokens) AS share_missed
FROM encodings e JOIN codes c ON c.encoding_id = e.id WHERE c.status = 'done'
GROUP BY e.id, c.kind, c.bank ORDER BY e.id, c.kind DESC, c.bank DESC""",
    "Which numbers of each SAE differ from those of its random control?": """
SELECT reader, corpus, analysis, layer, metric, value, chance, ci_low, ci_high, p_value, n
FROM current_metrics
WHERE (analysis GLOB 'sae.*' OR analysis GLOB 'sae-forced.*') AND subject IS NULL
  AND chance IS NOT NULL
ORDER BY reader, corpus, analysis, id""",
}
