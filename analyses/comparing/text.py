"""A comparison as a user reads it: the cells of its board, and lines about all else.

Written from its rows alone.
"""

from collections.abc import Iterator, Sequence

from analyses.comparing.figures import MOST_PAIRS, Record, pairs_of
from analyses.keeping import Rows
from stores.results import Metric

FIRST, LAST = ("", "measure"), ("published",)
NEED_VECTORS_ALONE = ("geometry", "norms")


def board_columns(rows: Rows) -> tuple[str, ...]:
    """Metric, measure, a column for each set, published numbers."""
    return (*FIRST, *_sets(rows), *LAST)


def board_cells(rows: Rows) -> tuple[tuple[str, ...], ...]:
    """A line for every measure that some set has a number for, or that needs vectors alone."""
    lines = []
    for metric, records in _by_metric(rows).items():
        own = {str(row["set"]): row for row in records if row["set"] is not None}
        anywhere = records[0]["source"] in NEED_VECTORS_ALONE
        if anywhere or any(row["value"] is not None for row in own.values()):
            published = [row for row in records if row["set"] is None]
            cells = [_own(own[name]) for name in _sets(rows)]
            lines.append((metric, str(records[0]["measure"]), *cells, _published(published)))
    return tuple(lines)


def tell(rows: Rows) -> list[str]:
    """The sets, the agreement of the pairs, and what is missing, with the command for it."""
    return [*_tell_sets(rows), *_tell_pairs(rows), *_tell_vectors(rows), *_tell_missing(rows)]


def _tell_sets(rows: Rows) -> Iterator[str]:
    for row in rows.records("sets"):
        origin = "imported" if row["imported"] else "built here"
        model = f" of {row['model']}" if row["model"] else ""
        yield (
            f"{row['set']}: {row['variant']} vectors{model}, {origin}; {row['emotions']} emotions, "
            f"{row['layers']} of {row['n_layers']} layers; analysis layer {row['layer']}, depth "
            f"{row['depth']:.2f}; labels: {row['labels']}"
        )
        if row["assumed"]:
            yield f"{row['set']}: nobody said how many layers the model has; depths may be off"


def _tell_pairs(rows: Rows) -> Iterator[str]:
    pairs = pairs_of(rows)
    for pair in pairs:
        found = {
            row["kind"]: row for row in rows.records("pairs") if (row["set"], row["other"]) == pair
        }
        one = found["rsa_pearson"]
        yield (
            f"{pair[0]} layer {one['layer']} and {pair[1]} layer {one['other_layer']}, "
            f"{one['emotions']} shared emotions: RSA Pearson {_judged(one)}, Spearman "
            f"{_number(found['rsa_spearman']['value'])}; Procrustes {_judged(found['procrustes'])}"
        )
    for row in rows.select("rsa_pearson"):
        if row.value is None:
            yield f"{row.subject}: too few emotions in common ({row.n}) to be compared"
    if len(pairs) > MOST_PAIRS:
        yield f"{MOST_PAIRS} of {len(pairs)} pairs are drawn; the tables have all of them"


def _tell_vectors(rows: Rows) -> Iterator[str]:
    """Of every pair with vectors to match: the analysis layer, or the last where that has none."""
    homes = {row["set"]: row["layer"] for row in rows.records("sets")}
    chosen: dict[str | None, Metric] = {}
    for row in rows.select("matched_cosine"):
        home = homes[str(row.subject).split(" & ")[0]]
        if chosen.setdefault(row.subject, row).layer != home:
            chosen[row.subject] = row
    for row in chosen.values():
        yield (
            f"{row.subject} layer {row.layer}: mean cosine of the same emotion's vectors "
            f"{_number(row.value)} ({_number(row.ci_low)} to {_number(row.ci_high)}; chance "
            f"{_number(row.chance)}, p {_p(row.p_value)})"
        )


def _tell_missing(rows: Rows) -> Iterator[str]:
    """One line for each set and remedy."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows.records("missing"):
        key = (str(row["set"]), str(row["problem"]), str(row["remedy"]))
        found.setdefault(key, []).append(str(row["analysis"]))
    for (name, problem, remedy), analyses in found.items():
        step = f"`{remedy}`" if remedy else "needs texts or a model, and these were imported"
        yield f"{name}: {', '.join(analyses)}: {problem}; {step}"


def _sets(rows: Rows) -> list[str]:
    return [str(row["set"]) for row in rows.records("sets")]


def _by_metric(rows: Rows) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for row in rows.records("board"):
        found.setdefault(str(row["metric"]), []).append(row)
    return found


def _own(row: Record) -> str:
    if row["value"] is None:
        return str(row["note"])
    told = _number(row["value"])
    if row["ci_low"] is not None:
        p = "" if row["p"] is None else f"; p {_p(row['p'])}"
        told += f" ({_number(row['ci_low'])} to {_number(row['ci_high'])}; n {row['n']}{p})"
    return f"{told}, {row['note']}" if row["note"] else told


def _published(records: Sequence[Record]) -> str:
    """Each number with its source; with its model where a source has several."""
    sources = [row["source"] for row in records]
    told = []
    for row in records:
        several = sources.count(row["source"]) > 1
        whose = f"{row['source']}, {row['model']}" if several else str(row["source"])
        told.append(f"{whose} {_number(row['value'])}")
    return "; ".join(told)


def _judged(row: Record) -> str:
    interval = f"{_number(row['ci_low'])} to {_number(row['ci_high'])}"
    chance = f"chance {_number(row['chance'])}, p {_p(row['p'])}"
    return f"{_number(row['value'])} ({interval}; {chance})"


def _number(value: str | float | None) -> str:
    if value is None:
        return "?"
    number = float(value)
    if number.is_integer() or abs(number) >= 100:
        return f"{number:.0f}"
    return f"{round(number, 2) + 0.0:.2f}"


def _p(value: str | float | None) -> str:
    return "?" if value is None else f"{float(value):.2g}"
