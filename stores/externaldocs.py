"""What the tables of external text mean, as `tabledocs.py` reads it.

Knows nothing of SQL.
"""

EXTERNAL_DOCS = """
samples: Each drawing of documents from a source of texts that others wrote.
    id
    source          name of the source: pile, lmsys, or what the user called it
    digest          digest of the settings
    settings        what identifies the source, seed, size and rule of the drawing, as JSON
    seen            documents that were looked at; NULL until the sample is complete
    skipped         how many of them were no document of their own, by reason, as JSON
    run_id
    created_at
    finished_at     when it was complete, UTC; NULL until then
documents: The documents of each sample, whichever model reads them.
    id
    sample_id       samples.id
    rank            its order: the lowest are kept; a hash of text and seed, or place in a stream
    place           where it stands in its source: file and line, or number in a stream
    part            what its source calls a part of itself: a subset, a language; NULL without
    text            the document, or the beginning of one that is longer than is kept
    characters      length of the whole document
    text_sha        digest of the whole document
projections: Each pass of a reader over a sample, along the directions of one corpus.
    id
    sample_id       samples.id
    reader
    corpus          texts that the emotion vectors were made from
    digest          digest of the settings
    settings        emotions, layers, digests of the vectors, model, format, token limits, as JSON
    run_id
    created_at
    finished_at     when every document was read, UTC; NULL until then
projected: What became of each document in each pass.
    projection_id   projections.id
    document_id     documents.id
    chunk           0-based number of the documents that were read and committed together
    status          done, rejected (too short, too large) or failed
    reason          why it was rejected or failed; NULL when done
    tokens          tokens of its content that were read; NULL when it could not be cut into tokens
    cut             1 when there was more text than was read
document_scores: Each document that is done, projected on every emotion's direction.
    projection_id   projections.id
    layer
    document_id     documents.id
    norm            mean residual norm of its pooled tokens
    scores          projection of its pooled mean on each emotion's direction, as JSON
token_summaries: All pooled tokens of a chunk, as much of them as is kept.
    projection_id   projections.id
    layer
    chunk           the chunk: projected.chunk
    tokens          pooled tokens
    moments         means of all emotions, then sums of squared deviations, float64 little-endian
    quantiles       of each emotion the middles of equal shares of the tokens, float32 little-endian
snippets: The windows of text that excite each emotion most, one of a document at most.
    projection_id   projections.id
    layer
    emotion         emotion of the direction
    document_id     documents.id
    first           0-based number of its first token in the document
    score           mean projection of its tokens
    tokens          the texts of its tokens, as JSON
    heat            projection of each of its tokens, as JSON
judgements: What a judge was asked about snippets, and its answers.
    id
    projection_id   projections.id
    layer
    emotion         emotion that the snippet is one of
    document_id     documents.id
    first           first token of the snippet: snippets.first
    asked           emotion that the judge was asked about: the snippet's own or another
    judge           model that judges
    prompt_sha      digest of the wording of the question
    score           how well the asked emotion fits, 0 to 10; NULL without an answer
    reason          why there is no score; NULL when there is one, or the question is open
    reply_id        the answer: replies.id
    created_at
"""
