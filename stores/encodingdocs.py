"""What the tables of passes under SAEs mean, as `tabledocs.py` reads it.

Knows nothing of SQL.
"""

ENCODING_DOCS = """
encodings: Each pass of a reader over its corpus under an SAE and the random control it is held to.
    id
    reader
    corpus
    name            what the SAE is called here
    digest          digest of what identifies the pass
    settings        SAE, layer, model, types, the control's sample of tokens and its l0, as JSON
    run_id
    created_at
    finished_at     when every text had its codes, UTC; NULL until then
codes: Each text under each of both, pooled over its tokens.
    encoding_id     encodings.id
    kind
    bank            sae, or control: random features that match it
    text_id         stories.id or dialogues.id, by kind
    text_sha        digest of the text that was encoded
    status          done, rejected or failed
    reason          why there are no codes; NULL when done
    tokens          pooled tokens
    l0              mean number of features that fire on a token
    error           mean squared distance between activation and reconstruction
    square          mean squared norm of the activations
    features        the features that fired on any token, ascending, int32 little-endian
    means           mean code of each of them over all pooled tokens, float32 little-endian
"""
