"""What every table, view and column of the ledger means: the text behind `sql --schema`.

Knows nothing of SQL. A column without its own words has the same meaning in every table.
"""

from dataclasses import dataclass

from stores.encodingdocs import ENCODING_DOCS
from stores.externaldocs import EXTERNAL_DOCS


@dataclass(frozen=True, slots=True)
class TableDoc:
    """What a table or view holds, and what each of its columns means, in their order."""

    purpose: str
    columns: dict[str, str]


_EVERYWHERE = {
    "id": "number of the row",
    "corpus": "name of a set of texts, by who wrote them",
    "kind": "'stories' or 'dialogues'",
    "reader": "slug of the model that read the texts",
    "layer": "0-based index of a decoder block",
    "emotion": "emotion the story is about",
    "topic": "topic given in the prompt",
    "slot": "0-based number among the texts of one emotion and topic",
    "seed": "seed of the sampling",
    "run_id": "run that made it: runs.id",
    "reply_id": "raw reply the text was cut from: replies.id",
    "created_at": "when it was written, UTC",
    "protocol_digest": "digest of every file of the protocol",
    "analysis": "name of the experiment",
    "metric": "name of the number",
    "subject": "what the number is about (an emotion, a pair, a text); NULL for a summary",
    "value": "the number; NULL when it could not be computed",
    "n": "samples behind it",
    "chance": "value expected without any effect",
    "ci_low": "lower end of the confidence interval",
    "ci_high": "upper end of the confidence interval",
    "p_value": "probability of such a value by chance",
    "passed": "1 when it meets its threshold, 0 when not, NULL without one",
    "threshold": "value to reach",
    "sha256": "digest of the bytes",
    "inputs": "digest of everything it was computed from",
}

_TEXT_COLUMNS = """
    topic
    slot
    status      pending, leased, done, rejected (by a check) or failed (no usable reply)
    text        the text; NULL unless done
    words       words in the text
    attempts    times it was given to a backend
    crashes     times the engine died while it was leased
    reason      why the last attempt was refused or failed; NULL when done
    generator   the model that wrote it, or whoever an imported file names
    reply_id
    seed
    owner       worker that holds the lease; NULL unless leased
    lease_until when the lease ends, in seconds since 1970
    created_at
    updated_at  when the row changed last, UTC
"""

_METRIC_COLUMNS = """
    id
    run_id
    reader
    corpus
    analysis
    metric
    layer
    subject
    value
    n
    chance
    ci_low
    ci_high
    p_value
    passed
    threshold
"""

_DOCS = f"""
corpora: The protocol under which each corpus is written; another one is refused.
    corpus
    protocol_digest
    protocol_files  digest of each file of the protocol, as JSON
    protocol_folder where the protocol was read from
    created_at
    marks_rule      rule by which all its finished texts are marked; NULL: not marked yet
runs: One row per command that computed something, with all its settings.
    id
    command         what was run
    settings        every setting of the run, as JSON
    inputs
    code_version    digest of the program's source files
    protocol_digest
    reader
    corpus
    model           model that was loaded or called
    model_revision  its revision
    started_at      when it began, UTC
    ended_at        when it ended, UTC; NULL while it runs, or when it was killed
    outcome         'done', or how it ended otherwise
replies: What a model or an API answered, word for word, before anything parsed it.
    id
    run_id
    corpus          set of texts it was asked for; of a judge, the source of the snippets
    kind            'stories', 'dialogues', or 'snippets' that were judged
    prompt_sha      digest of the prompt; of emotion, topic and text for an imported one
    backend         local, gemini, openai, or import for texts read from a file
    model           model that answered
    seed
    raw             the answer
    finish_reason   stop, length (at the token limit), blocked, unknown, or imported
    prompt_tokens   tokens of the prompt
    output_tokens   tokens of the answer, thinking not counted
    latency_s       seconds from sending to answer
    created_at
    provider_reason why it ended, in the provider's own word
    thinking_tokens tokens of thinking, which are paid like those of the answer
    cost_usd        what it cost in US dollars; NULL when no price is known
    response_id     the provider's name for the answer
    model_version   the model that answered, as the provider names it
    endpoint        the server that answered
    asked           texts it was asked for
    found           texts that were found in it
calls: Each call to a backend, recorded before it is sent.
    id
    run_id
    kind            'stories', 'dialogues', or 'snippets' that are judged
    text_ids        rows it was sent for (of a judge, judgements.id), as JSON
    sent_at         when it was sent, UTC
    outcome         'recorded' or the error; NULL while under way, or when the engine died first
    reply_id        the answer: replies.id
stories: One row per story that is planned: an emotion, a topic and a slot.
    id
    corpus
    emotion{_TEXT_COLUMNS}
dialogues: One row per neutral dialogue that is planned: a topic and a slot.
    id
    corpus{_TEXT_COLUMNS}
verdicts: What became of each text that a reply was asked for, by the last look at it.
    reply_id
    text_id         stories.id or dialogues.id, by kind
    corpus
    kind
    part            0-based place of the text in the reply; NULL when the reply had none for it
    attempt         which attempt at the text it was; 0 for an imported text
    reason          why it was refused; NULL when it was accepted
marks: Hashes by which equal and nearly equal texts of a corpus are found.
    mark            hash of one trait of a text, of its corpus and kind
    text_id         text that has it
budgets: Tokens that fitted into memory at once, after a larger batch did not.
    stage           what was done: generate or extract
    model           model and type of its numbers
    device          where it ran
    tokens          the largest batch to try
    updated_at      when it was learnt, UTC
arrays: The settings of each reader's arrays; other settings are refused.
    reader
    corpus
    kind
    settings        model, weights, start token, format, dtype, protocol, as JSON
    chunk_rows      rows per chunk
    d_model         numbers per row
    created_at
activations: Which text is which row of the arrays, and what became of it.
    reader
    corpus
    kind
    text_id         stories.id or dialogues.id, by kind
    row             0-based row in the array of every layer
    text_sha        digest of the text that was read
    tokens_sha      digest of its tokens
    tokens          number of its tokens
    status          pending, done, rejected or failed; only rows that are done hold numbers
    reason          why it was rejected or failed
receipts: One row per chunk of an array that is durably on disk.
    reader
    corpus
    kind
    layer
    chunk           0-based chunk of rows
    sha256          digest of the chunk file
    bytes           size of the chunk file
    rows            rows planned in the chunk
    created_at
    norm            mean residual norm of the rows that were done; NULL when not kept, or for none
    done            rows that were done when it was written; NULL when not kept
vectors: One row per stored layer of emotion vectors, built here or imported.
    reader          who read the texts, or the name given to imported vectors
    corpus
    variant         raw, or denoised: neutral components projected out; imported ones may lack one
    layer
    emotions        emotion of each vector, as JSON
    settings        how they were made, or which files they came from, as JSON
    inputs
    sha256          digest of the vectors, float64
    run_id
    created_at
metrics: Every number of every analysis of every run, for ever.{_METRIC_COLUMNS}
tables: The tables of every analysis of every run, for ever.
    id
    run_id
    reader
    corpus
    analysis
    name            name of the table
    layer
    columns         its column names, as JSON
    rows            its rows, as JSON
published: Numbers from the literature to compare with.
    source          where they were published
    model           model they are about
    metric
    value
    note            what to know before comparing
sweeps: Two-option questions put to one model in one form; anything else is another sweep.
    id
    reader
    digest          digest of weights, number type, form, questions, spans and answer tokens
    settings        model, form, answer tokens, as JSON
    run_id
    created_at
questions: The prompts of each sweep, with the tokens that are read and steered.
    sweep_id        sweeps.id
    question        0-based number of the question
    first           0-based number of the option (A)
    second          0-based number of the option (B)
    text            the whole prompt, as the model reads it
    read_token      the last token, after which the answer is read
    read_at         its 0-based place
    words_first     what the tokens of the first option say
    span_first      their places, as start:end
    words_second    what the tokens of the second option say
    span_second     their places, as start:end
    steered         places of the tokens that are steered; blank for pairs of controls
arms: What was added to the residual stream while the questions of a sweep were asked.
    id
    sweep_id        sweeps.id
    digest          digest of what was added, its layers and its strength
    name            emotion or control it was first asked for as
    kind            baseline, zero, emotion, feature, random, mean, opposite, dose, band
    strength        length of what was added, as a fraction of the mean residual norm
    layers          layers at which something was added, as JSON
    norms           length of what was added at each of them, as JSON
    drift           zero arms: largest change of a logit by replaying alone; NULL for other arms
    method          zero arms: how the replay was done last; NULL for other arms
    reason          zero arms: why it was not done in a faster way; NULL for other arms
    run_id
    created_at
answers: What each question came to in each arm; pairs of controls are in the baseline alone.
    arm_id          arms.id
    question        questions.question, of the sweep of the arm
    logit_a         logit of the answer A
    logit_b         logit of the answer B
completeness: How many stories of each emotion are in which state (a view).
    corpus
    emotion
    done            stories that are done
    rejected        stories that no attempt brought past the checks
    failed          stories for which no attempt brought a usable reply
    missing         stories that are pending or leased
current_metrics: The metrics of the run that published last, by analysis (a view).{_METRIC_COLUMNS}
scoreboard: The suite's summary numbers, V1 to V11, by reader and corpus (a view).
    reader
    corpus
{"".join(f"    V{number} value of V{number}{chr(10)}" for number in range(1, 12))}
_sqlite_migrations: Which changes of the schema this ledger has been through.
    id
    migration_set   family of changes
    name            name of the change
    applied_at      when it was made, UTC
"""


def _parse(text: str) -> dict[str, TableDoc]:
    """`table: purpose`, followed by indented lines `column meaning`."""
    docs: dict[str, TableDoc] = {}
    columns: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        if line.startswith(" "):
            column, _, meaning = line.strip().partition(" ")
            columns[column] = meaning.strip() or _EVERYWHERE[column]
        else:
            table, _, purpose = line.partition(": ")
            columns = {}
            docs[table] = TableDoc(purpose, columns)
    return docs


TABLE_DOCS = _parse(_DOCS + EXTERNAL_DOCS + ENCODING_DOCS)
