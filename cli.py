"""Emotion vectors, end to end: texts into SQLite, residual streams into Zarr, vectors, analyses.

Every command opens the workspace, calls one function and prints. Answers go to stdout, human text
and progress to stderr. Nothing heavy is imported before a command needs it.
"""

import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from stores.database import Connection, open_database
from stores.errors import EngineError, NotReady, UsageError
from stores.workspace import Workspace, engine_lock

DEMO_WORKSPACE = Path("data/demo")
STOPPED = 130

# Read once, when torch and numpy load: threads that spin while they wait cost ten times the time on
# a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class Commands(click.Group):
    """A group that turns every expected failure into one line and the promised exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EngineError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(STOPPED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workspace", "folder", type=click.Path(path_type=Path), envvar="EMOVEC_WORKSPACE")
@click.pass_context
def cli(ctx: click.Context, folder: Path | None) -> None:
    """Emotion vectors, and concept vectors of any kind: generate, extract, build, analyse.

    Everything happens in a workspace, a folder with data/ and results/: --workspace, the variable
    EMOVEC_WORKSPACE, or the current folder. `demo` shows the whole job on a toy model.
    """
    ctx.obj = folder


# ---- shared by several commands ------------------------------------------------------------------


def workspace_of(ctx: click.Context) -> Workspace:
    return Workspace(ctx.obj or Path())


@contextmanager
def reading(ctx: click.Context) -> Iterator[Connection]:
    """A read-only connection: any number of them, at any time."""
    conn = open_database(workspace_of(ctx).database, read_only=True)
    try:
        yield conn
    finally:
        conn.close()


@contextmanager
def writing(workspace: Workspace, command: str) -> Iterator[Connection]:
    """The one writing connection of a workspace, under its lock."""
    with engine_lock(workspace, command):
        conn = open_database(workspace.database)
        try:
            yield conn
        finally:
            conn.close()


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM once: finish what is in flight, then exit 130. Twice: end at once."""
    stop = threading.Event()

    def ask(signum: int, frame: object) -> None:
        if stop.is_set():
            os._exit(STOPPED)
        stop.set()
        click.echo("\nstopping after what is in flight; once more stops at once", err=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if stop.is_set():
        click.echo("stopped; what was finished is kept, the same command goes on", err=True)
        sys.exit(STOPPED)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int, str], None]]:
    """A line per stage on stderr: a bar on a terminal, a plain line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield plain_progress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield report


def plain_progress(every: float = 5.0) -> Callable[[str, int, int, str], None]:
    last: dict[str, float] = {}

    def report(stage: str, done: int, total: int, note: str) -> None:
        if done == total or time.monotonic() - last.get(stage, -every) >= every:
            last[stage] = time.monotonic()
            click.echo(f"{stage}: {done}/{total} {note}".rstrip(), err=True)

    return report


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on stdout. Text of models passes as text, never as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def only_one(conn: Connection, role: str, asked: str | None) -> str:
    """The reader or corpus that was asked for, or the only one there is."""
    from stores.readers import known_corpora, known_readers

    known = known_corpora(conn) if role == "corpus" else known_readers(conn)
    if asked in known:
        return str(asked)
    if asked is None and len(known) == 1:
        return known[0]
    if not known:
        step = "generate stories" if role == "corpus" else "extract"
        raise NotReady(f"this workspace has no {role} yet: run `cli.py {step}` first")
    if asked is None:
        raise UsageError(f"which --{role}? This workspace has {', '.join(known)}")
    raise NotReady(f"this workspace has no {role} {asked!r}; it has {', '.join(known)}")


def load(folder: Path | None, conn: Connection | None = None, corpus: str | None = None) -> Any:
    """The protocol that was asked for, else the one the corpus was made with, else the default."""
    from stores.corpora import protocol_folder
    from stores.protocol import DEFAULT_PROTOCOL, load_protocol

    recorded = protocol_folder(conn, corpus) if folder is None and conn and corpus else None
    return load_protocol(folder or recorded or DEFAULT_PROTOCOL)


def place_of(
    ctx: click.Context,
    conn: Connection,
    *,
    reader: str | None,
    corpus: str | None,
    protocol_folder: Path | None,
) -> tuple[Workspace, Any, str, str, tuple[int, ...]]:
    """Workspace, protocol, reader, corpus and extracted layers: where an analysis works."""
    from stores.rows import extracted_layers

    whose, who = only_one(conn, "corpus", corpus), only_one(conn, "reader", reader)
    layers = tuple(extracted_layers(conn, who, whose, "stories"))
    return workspace_of(ctx), load(protocol_folder, conn, whose), who, whose, layers


def watch_with(bar: Callable[[str, int, int, str], None]) -> Callable[[str, Any], None]:
    """Shows the progress of generation and extraction on a bar."""

    def watch(stage: str, now: Any) -> None:
        if hasattr(now, "rejections"):
            refused = ", ".join(f"{reason} {n}" for reason, n in sorted(now.rejections.items()))
            bar(stage, now.done, now.total, f"{now.rate:.1f}/s {refused and 'refused: ' + refused}")
        else:
            bar(stage, now.rows, now.total, f"{now.tokens / max(now.elapsed_s, 1e-9):.0f} tokens/s")

    return watch


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
protocol_option = click.option(
    "--protocol",
    "protocol_folder",
    type=click.Path(path_type=Path),
    help="Folder of emotions, topics, prompts (default: the corpus's own, else data/protocol).",
)
corpus_option = click.option("--corpus", help="Whose texts (default: the only corpus there is).")
reader_option = click.option("--reader", help="Who read them (default: the only one there is).")
model_options = options(
    click.option("--model", "name", required=True, help="Hub id or path, e.g. data/demo_model."),
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
    ),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, ..."),
    click.option("--revision", help="Commit, tag or branch on the hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
)
generation_options = options(
    model_options,
    protocol_option,
    click.option("--backend", type=click.Choice(["local"]), default="local", show_default=True),
    click.option("--corpus", default="main", show_default=True, help="Name of the set of texts."),
    click.option("--topics", type=click.IntRange(1), help="Use the first N topics (default: all)."),
    click.option("--per-topic", type=click.IntRange(1), default=1, show_default=True),
    click.option("--limit", type=click.IntRange(0), help="Finish at most N texts in this run."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--max-attempts", type=click.IntRange(1), default=5, show_default=True),
    click.option("--batch", type=click.IntRange(1), default=64, show_default=True),
    click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95),
    click.option("--max-tokens", type=click.IntRange(1), default=400, show_default=True),
    click.option("--plan-only", is_flag=True, help="Plan the rows and stop."),
)


# ---- commands ------------------------------------------------------------------------------------


@cli.command()
@click.option("--topics", type=click.IntRange(1, 100), default=6, help="Stories of each emotion.")
@click.pass_context
def demo(ctx: click.Context, topics: int) -> None:
    """The whole job on the embedded toy model, in its own workspace (data/demo).

    A second call resumes, repeats nothing and prints the same table.
    """
    from analyses.demo import analyse_demo
    from engine.demo.job import NAME, write_and_read

    workspace = Workspace(ctx.obj or DEMO_WORKSPACE)
    with writing(workspace, "demo") as conn, stopping() as stop, progress_bar() as bar:
        read = write_and_read(conn, workspace, topics, watch=watch_with(bar), stop=stop)
        if read is None:
            return
        place = (workspace, read.protocol, NAME, NAME, read.layers)
        found = analyse_demo(conn, *place, read.layer, watch=bar)
    title = (
        "toy model, planted geometry: this shows that the tool works, not what language models do"
    )
    print_table(("", "found", ""), [(row.what, row.value, row.note) for row in found], title)
    click.echo(f"figures   {workspace.results(NAME) / 'figures'}")
    click.echo(f"database  {workspace.database}")
    click.echo(f"next      python cli.py --workspace {workspace.root} status")


@cli.group()
def generate() -> None:
    """Write stories or neutral dialogues into the database."""


@generate.command("stories")
@generation_options
@click.option("--emotions", default="all", show_default=True, help='"all", or names: a,b.')
@click.pass_context
def generate_stories(ctx: click.Context, /, **asked: Any) -> None:
    """Plan and write stories: each emotion x topic x slot once, resumable at any point."""
    run_generate(ctx, "stories", **asked)


@generate.command("neutral")
@generation_options
@click.pass_context
def generate_neutral(ctx: click.Context, /, **asked: Any) -> None:
    """Plan and write neutral dialogues, which the vectors are denoised with."""
    run_generate(ctx, "dialogues", emotions="", **asked)


def run_generate(
    ctx: click.Context,
    kind: Any,
    *,
    protocol_folder: Path | None,
    emotions: str,
    topics: int | None,
    plan_only: bool,
    backend: str,
    **numbers: Any,
) -> None:
    """What both kinds of generation share. `local` is the only backend so far."""
    from engine.generation import GenerationSettings, count_open
    from engine.stages import plan_generation, run_generation
    from stores.protocol import select_emotions

    model = pop_model(numbers)
    protocol = load(protocol_folder)
    named = select_emotions(protocol, emotions) if kind == "stories" else ()
    chosen = protocol.topics if kind == "stories" else protocol.neutral_topics
    settings = GenerationSettings(kind=kind, emotions=named, topics=chosen[:topics], **numbers)
    with writing(workspace_of(ctx), f"generate {kind}") as conn, stopping() as stop:
        if plan_only:
            added = plan_generation(conn, protocol, settings)
            left = count_open(conn, kind, settings.corpus)
            click.echo(f"{added} rows planned now, {left} open in corpus {settings.corpus}")
            return
        with progress_bar() as bar:
            watch = partial(watch_with(bar), kind)
            done = run_generation(conn, protocol, settings, model, progress=watch, stop=stop)
    refused = ", ".join(f"{reason} {n}" for reason, n in sorted(done.rejections.items()))
    click.echo(
        f"{done.done} {kind} written in {done.elapsed_s:.1f} s, {done.failures} failures, "
        f"replies refused: {refused or 'none'}; {done.left} rows open"
    )


def pop_model(asked: dict[str, Any]) -> Any:
    """Take the model's options out of a command's."""
    from engine.stages import LazyModel

    names = ("name", "device", "dtype", "revision", "trust_remote_code")
    return LazyModel(**{name: asked.pop(name) for name in names})


@cli.command()
@model_options
@reader_option
@corpus_option
@protocol_option
@click.option("--layers", default="all", show_default=True, help="all, 2:3, 5,10,15 or every:5.")
@click.option("--start-token", type=click.IntRange(0), default=50, show_default=True)
@click.option("--raw/--chat", default=True, help="Plain text, or as a turn of a chat.")
@click.option("--tokens-per-batch", type=click.IntRange(1), default=4096, show_default=True)
@click.pass_context
def extract(
    ctx: click.Context,
    /,
    reader: str | None,
    corpus: str | None,
    protocol_folder: Path | None,
    layers: str,
    start_token: int,
    raw: bool,
    tokens_per_batch: int,
    **model_choice: Any,
) -> None:
    """Read every finished text with a model and store its pooled residual stream, by layer."""
    from engine.extraction import ExtractionSettings
    from engine.models import parse_layers
    from engine.stages import LazyModel, run_extraction

    model = LazyModel(**model_choice)
    with writing(workspace_of(ctx), "extract") as conn, stopping() as stop, progress_bar() as bar:
        whose = only_one(conn, "corpus", corpus)
        settings = ExtractionSettings(
            reader=reader or model.slug,
            corpus=whose,
            layers=parse_layers(layers, model.checkpoint.n_layers),
            start_token=start_token,
            format="raw" if raw else "chat",
            tokens_per_batch=tokens_per_batch,
        )
        summary = run_extraction(
            conn,
            workspace_of(ctx),
            load(protocol_folder, conn, whose),
            settings,
            model,
            progress=partial(watch_with(bar), "activations"),
            stop=stop,
        )
    told = ", ".join(f"{outcome} {n}" for outcome, n in sorted(summary.outcomes.items()))
    click.echo(
        f"{summary.rows} rows read in {summary.elapsed_s:.1f} s ({told or 'nothing was open'}), "
        f"{summary.chunks} chunks written for reader {settings.reader}"
    )


@cli.group()
def vectors() -> None:
    """Emotion vectors of a reader: build them, export them."""


@vectors.command("build")
@reader_option
@corpus_option
@protocol_option
@click.option("--denoise", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.pass_context
def vectors_build(ctx: click.Context, /, denoise: float, **asked: Any) -> None:
    """Build the vectors of every extracted layer, raw and denoised."""
    from analyses.vectors import build_vectors

    with writing(workspace_of(ctx), "vectors build") as conn:
        place = place_of(ctx, conn, **asked)
        built = build_vectors(conn, *place, denoise=denoise)
    click.echo(f"layers built: {list(built.built)}; unchanged: {list(built.unchanged)}")


@vectors.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@reader_option
@corpus_option
@click.pass_context
def vectors_export(ctx: click.Context, /, path: Path, **asked: str | None) -> None:
    """Write every layer's vectors to one .npz file."""
    from stores.vectors import export_vectors

    with reading(ctx) as conn:
        reader, corpus = (only_one(conn, column, asked[column]) for column in ("reader", "corpus"))
        export_vectors(conn, workspace_of(ctx), reader, corpus, path)
    click.echo(str(path))


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="What each one answers and what it needs.")
@reader_option
@corpus_option
@protocol_option
@click.option("--layer", type=click.IntRange(0), help="Analysis layer (default: nearest to 2/3).")
@click.option("--permutations", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.pass_context
def analyze(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    listing: bool,
    layer: int | None,
    permutations: int,
    seed: int,
    **asked: Any,
) -> None:
    """Run analyses by name, or all; publish rows, then export and draw what was published."""
    from analyses.base import discover, run_analysis
    from analyses.opening import choose, open_inputs

    known = discover()
    if listing:
        rows = [(each.name, each.question, ", ".join(each.needs)) for each in known.values()]
        print_table(("name", "question", "needs"), rows)
        return
    chosen = choose(known, names)
    with writing(workspace_of(ctx), f"analyze {' '.join(names)}") as conn:
        place = place_of(ctx, conn, **asked)
        inputs = open_inputs(conn, *place, layer, seed=seed, permutations=permutations)
        for analysis in chosen:
            done = run_analysis(analysis, inputs)
            click.echo(f"{done.analysis}: {done.status}, run {done.run_id}")
            for path in done.files:
                click.echo(f"  {path}")


@cli.command()
@json_option
@click.option("--watch", is_flag=True, help="Again every two seconds until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """How far every stage of every corpus is; rate and time left while something moves."""
    from stores.replies import orphaned_calls
    from stores.status import STATUSES, read_stages

    with reading(ctx) as conn:
        while True:
            stages, orphans = read_stages(conn, now=time.time()), orphaned_calls(conn)
            if as_json:
                rows = [{**asdict(row), "seconds_left": row.seconds_left} for row in stages]
                print_json({"stages": rows, "orphaned_calls": orphans})
            else:
                if watch:
                    click.clear()
                columns = ("corpus", "stage", "reader", *STATUSES, "reasons", "rows/s", "time left")
                print_table(columns, [status_cells(row) for row in stages])
                if orphans:
                    click.echo(f"{orphans} calls were sent and their replies never arrived")
            if not watch:
                return
            time.sleep(2)


def status_cells(row: Any) -> list[object]:
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(row.reasons.items()))
    rate = f"{row.rate:.1f}" if row.rate else ""
    left = f"{row.seconds_left:.0f} s" if row.seconds_left else ""
    return [row.corpus, row.stage, row.reader, *row.rows.values(), reasons, rate, left]


@cli.command()
@click.argument("query", required=False)
@click.option(
    "--schema", is_flag=True, help="What every table and column means, and queries to try."
)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
@click.pass_context
def sql(ctx: click.Context, query: str | None, schema: bool, as_json: bool, as_csv: bool) -> None:
    """Run one read-only SQL query on the ledger."""
    from stores.queries import READY_QUERIES, run_query

    if schema:
        from stores.tabledocs import TABLE_DOCS

        for name, table in TABLE_DOCS.items():
            click.echo(f"{name}: {table.purpose}")
            for column, meaning in table.columns.items():
                click.echo(f"    {column:<16} {meaning}")
        for question, ready in READY_QUERIES.items():
            click.echo(f"\n-- {question}{ready}")
        return
    if query is None:
        raise UsageError("write a query, e.g. sql 'SELECT * FROM completeness', or use --schema")
    answer = run_query(workspace_of(ctx).database, query)
    if as_json:
        print_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        print_table(answer.columns, answer.rows)


@cli.command()
@click.option("--repair", "mending", is_flag=True, help="Queue exactly the damaged rows again.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, mending: bool, as_json: bool) -> None:
    """Re-read everything: database, array checksums against receipts, orphans, versions."""
    from stores.integrity import inspect, repair

    workspace = workspace_of(ctx)
    mended = 0
    with writing(workspace, "doctor --repair") if mending else reading(ctx) as conn:
        findings = inspect(conn, workspace)
        if mending:
            mended = repair(conn, workspace, findings)
    columns = ("thing", "place", "problem", "repair")
    rows = [tuple(getattr(row, column) for column in columns) for row in findings]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        print_table(columns, rows)
    faults = sum(row.fault for row in findings)
    click.echo(f"{faults} faults, {len(findings) - faults} warnings, {mended} repaired", err=True)
    if faults > mended:
        ctx.exit(1)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_context
def backup(ctx: click.Context, path: Path) -> None:
    """A consistent copy of the database, also while an engine writes to it."""
    from stores.integrity import backup as copy

    with reading(ctx) as conn:
        copy(conn, path)
    click.echo(str(path))


if __name__ == "__main__":
    cli()
