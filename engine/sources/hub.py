"""Data sets on the hub as sources: streamed, shuffled by seed, never downloaded whole.

The hub's own loader opens shards in an order given by the seed, reads several at once and shuffles
through a buffer: not a uniform sample of a data set larger than that, but one of documents near
where its shards begin. No code of a data set is run; a token is found by the hub's own library.
Knows nothing of samples, models or the ledger.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.sources.base import Found, Source
from engine.sources.fields import choose_field, part_in, text_in
from engine.sources.refusals import asking, left, muted, require_loader, streaming
from stores.errors import UsageError

if TYPE_CHECKING:
    from datasets import IterableDataset

BUFFER_DOCUMENTS = 10_000
SHARDS = 10
"""Read side by side to fill the buffer."""
PEEKED = 32
AT_ONCE = 64


@dataclass(slots=True)
class HubSource:
    """A shuffled stream; each `read` begins anew and gives the same documents in the same order."""

    name: str
    settings: Mapping[str, Any]
    rows: "IterableDataset"
    whole: bool = False

    def read(self) -> Iterator[Found]:
        """Every document, from a place `stream:N` (from 0). Raises EngineError: the line broke."""
        seen = 0
        with muted(), left(iter(self.rows)) as rows:
            while batch := self._next(rows, seen):
                for position, row in enumerate(batch, seen):
                    yield self._found(position, row)
                seen += len(batch)

    def _next(self, rows: Generator[dict[str, Any]], seen: int) -> list[dict[str, Any]]:
        with streaming(self.settings["dataset"], seen):
            return list(islice(rows, AT_ONCE))

    def _found(self, position: int, row: Mapping[str, Any]) -> Found:
        text, fault = text_in(row, self.settings["field"])
        return Found(f"stream:{position}", text, part_in(row, self.settings["part"]), fault)


def open_hub(
    name: str,
    *,
    seed: int,
    dataset: str,
    config: str | None = None,
    split: str | None = None,
    text_field: str | None = None,
    part_field: str | None = None,
    revision: str | None = None,
) -> Source:
    """The documents of a data set (owner/name) in an order given by `seed` (not negative).

    Asks the hub which commit `revision` is, which splits there are, and for the first rows. The
    split is the one given, else train, else the only one.

    Raises:
        UsageError: the data set, its revision, configuration, split or field is not there, or
            `seed` is negative.
        EngineError: the hub cannot be reached or lets not this user in; a package is missing.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: data sets on the hub are shuffled by one of 0 or more")
    require_loader()
    with muted():
        with asking(dataset):
            commit = _resolve(dataset, revision)
            splits = _load(dataset, config, commit)
        split = _choose(dataset, "hub-split", split, list(splits))
        with asking(dataset), left(iter(splits[split])) as rows:
            first = list(islice(rows, PEEKED))
    if not first:
        raise UsageError(f"{dataset}: the split {split} is empty; choose another with --hub-split")
    field = choose_field(first, text_field, f"{dataset}, split {split}")
    if all(text_in(row, field)[0] is None for row in first):
        raise UsageError(f"{dataset}: the field {field} holds no text; correct --text-field")
    columns = sorted({_column(first[0], each) for each in (field, part_field) if each})
    rows = splits[split].select_columns([each for each in columns if each in first[0]])
    settings = {
        "kind": "hub",
        "dataset": dataset,
        "revision": commit,
        "config": config,
        "split": split,
        "field": field,
        "part": part_field,
        "shuffle": {"seed": seed, "buffer": BUFFER_DOCUMENTS, "shards": SHARDS},
        "datasets": _version(),
    }
    return HubSource(name, settings, rows.shuffle(seed, None, BUFFER_DOCUMENTS, SHARDS))


def _version() -> str:
    import datasets

    return str(datasets.__version__)


def _resolve(dataset: str, revision: str | None) -> str:
    """The commit, once the hub has said that it would give the files."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if datasets.config.HF_HUB_OFFLINE:  # HF_DATASETS_OFFLINE too, of which the hub knows nothing
        raise OfflineModeIsEnabled
    hub = HfApi()
    found = hub.dataset_info(dataset, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if found.gated:
        hub.auth_check(dataset, repo_type="dataset")
    return str(found.sha)


def _load(dataset: str, config: str | None, commit: str) -> "Mapping[str, IterableDataset]":
    """Every split, none of it read. The prefix keeps a local folder of that name out of it."""
    import datasets

    remote = f"hf://datasets/{dataset}"
    splits: Mapping[str, IterableDataset]
    try:
        splits = datasets.load_dataset(remote, config, revision=commit, streaming=True)
    except ValueError:
        names = datasets.get_dataset_config_names(remote, revision=commit)
        _choose(dataset, "config", config, names)
        raise
    return splits


def _choose(dataset: str, option: str, asked: str | None, there: list[str]) -> str:
    """What was asked for, else train, else the only one. Raises UsageError naming what is there."""
    if asked in there:
        return asked
    if asked is None and ("train" in there or len(there) == 1):
        return "train" if "train" in there else there[0]
    problem = f"no {asked!r}" if asked else "several to choose from"
    raise UsageError(f"{dataset}: --{option}: {problem}; there is {', '.join(there)}")


def _column(row: Mapping[str, Any], field: str) -> str:
    """The column that a field, dotted or not, is in."""
    return field if field in row else field.partition(".")[0]
