"""Emotion vectors, end to end: texts into SQLite, residual streams into Zarr, vectors, analyses.

Every command opens the workspace, calls one function and prints. Answers go to stdout, human text
and progress to stderr. Nothing heavy is imported before a command needs it.
"""

import csv
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import click

from stores.database import Connection, open_database
from stores.errors import BadValue, EngineError, NotReady, QuotaUsedUp, Stopped, UsageError
from stores.workspace import Workspace, engine_lock

DEMO_WORKSPACE = Path("data/demo")
STOPPED = 130
KEPT = "stopped; what was finished is kept, the same command goes on"

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
            click.echo(f"error: {printable(str(error))}", err=True)
            if isinstance(error, QuotaUsedUp):
                click.echo(f"go on then with: {shlex.join(sys.argv)}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(STOPPED)


def printable(text: str) -> str:
    """On one line, with what a terminal would obey (names of files may hold it) spelled out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


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
        except KeyboardInterrupt:
            click.echo(f"\n{KEPT}", err=True)
            raise
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
    except Stopped:
        stop.set()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if stop.is_set():
        click.echo(KEPT, err=True)
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


def only_one(
    conn: Connection,
    role: str,
    asked: str | None,
    reader: str | None = None,
    *,
    with_model: bool = False,
) -> str:
    """The reader or corpus that was asked for, or the only one there is.

    The only corpus of `reader` where that is given; the only reader that is a model where only such
    a one will do.
    """
    from stores.readers import is_imported, known_corpora, known_readers, text_corpora

    if role == "reader":
        known = known_readers(conn)
        if asked is None and with_model:
            known = [each for each in known if not is_imported(conn, each)] or known
    else:
        known = text_corpora(conn) if reader is None else known_corpora(conn, reader)
    if asked in known:
        return str(asked)
    if asked is None and len(known) == 1:
        return known[0]
    whose = f"reader {reader}" if reader else "this workspace"
    if not known:
        step = "generate stories" if role == "corpus" else "extract"
        raise NotReady(f"{whose} has no {role} yet: run `cli.py {step}` first")
    if asked is None:
        raise UsageError(f"which --{role}? {whose.capitalize()} has {', '.join(known)}")
    raise NotReady(f"{whose} has no {role} {asked!r}; it has {', '.join(known)}")


def load(folder: Path | None, conn: Connection | None = None, corpus: str | None = None) -> Any:
    """The protocol that was asked for, else the one the corpus was made with, else the default."""
    from stores.corpora import protocol_folder
    from stores.protocol import DEFAULT_PROTOCOL, load_protocol

    recorded = protocol_folder(conn, corpus) if folder is None and conn and corpus else None
    return load_protocol(folder or recorded or DEFAULT_PROTOCOL)


def load_for(ctx: click.Context, folder: Path | None, corpus: str) -> Any:
    """The same before the workspace is opened for writing, and even before there is one."""
    try:
        with reading(ctx) as conn:
            return load(folder, conn, corpus)
    except NotReady:
        return load(folder)


def place_of(
    ctx: click.Context,
    conn: Connection,
    *,
    reader: str | None,
    corpus: str | None,
    protocol_folder: Path | None,
    with_model: bool = False,
) -> "Place":
    """Workspace, protocol, reader, corpus and the layers it has: where an analysis works."""
    from stores.readers import analysable_layers

    who = only_one(conn, "reader", reader, with_model=with_model)
    whose = only_one(conn, "corpus", corpus, who)
    layers = analysable_layers(conn, who, whose)
    return workspace_of(ctx), load(protocol_folder, conn, whose), who, whose, layers


def watch_with(bar: Callable[[str, int, int, str], None]) -> Callable[[str, Any], None]:
    """Shows the progress of generation and extraction on a bar."""

    def watch(stage: str, now: Any) -> None:
        bar(stage, now.done, now.total, now.told)

    return watch


def counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in sorted(numbers.items()))


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


FILE = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
protocol_option = click.option(
    "--protocol",
    "protocol_folder",
    type=click.Path(path_type=Path),
    help="Folder of emotions, topics, prompts (default: the corpus's own, else data/protocol).",
)
corpus_option = click.option("--corpus", help="Whose texts (default: the only corpus there is).")
layers_option = click.option(
    "--layers", default="all", show_default=True, help="all, 2:3, 5,10,15, 5-10, every:5."
)
reader_option = click.option("--reader", help="Who read them (default: the only one there is).")
loading_options = options(
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
    ),
    click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16, ..."),
    click.option("--revision", help="Commit, tag or branch on the hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
)
model_options = options(
    click.option("--model", "name", required=True, help="Hub id or path, e.g. data/demo_model."),
    loading_options,
)
extraction_options = options(
    click.option(
        "--quantize", type=click.Choice(["4bit"]), help="NF4 weights; needs bitsandbytes."
    ),
    click.option("--offload", is_flag=True, help="Keep blocks that fit no card in host memory."),
    click.option(
        "--attention", help="eager, sdpa, flash_attention_2, ... (default: the best there is)."
    ),
    reader_option,
    corpus_option,
    protocol_option,
    layers_option,
    click.option("--start-token", type=click.IntRange(0), default=50, show_default=True),
    click.option("--raw/--chat", default=True, help="Plain text, or as a turn of a chat."),
    click.option(
        "--tokens-per-batch",
        type=click.IntRange(1),
        help="Tokens of one pass (default: what fitted before, or the device's).",
    ),
    click.option(
        "--batching",
        type=click.Choice(["auto", "packed", "padded", "alone"]),
        default="auto",
        show_default=True,
        help="How texts share a pass; checked at start.",
    ),
    click.option(
        "--chunk-rows",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Texts per file and receipt; counts when a corpus is first read.",
    ),
    click.option("--retry-memory", is_flag=True, help="Read again what memory could not hold."),
    click.option("--plan-only", is_flag=True, help="Tell disk, memory, time (or --json)."),
)
numbers_options = options(
    click.option(
        "--layer", type=click.IntRange(0), help="Analysis layer (default: nearest to 2/3)."
    ),
    click.option("--permutations", type=click.IntRange(1), default=1000, show_default=True),
    click.option("--seed", type=int, default=0, show_default=True),
)
reader_model_options = options(
    click.option("--model", "name", help="Where the reader's model is (default: where it was)."),
    loading_options,
    click.option("--offload", is_flag=True, help="Keep blocks that fit no card in host memory."),
    click.option("--attention", help="eager, sdpa, ... (default: the best there is)."),
)
analysis_options = options(
    reader_option,
    corpus_option,
    protocol_option,
    layers_option,
    numbers_options,
)
suite_options = options(
    reader_model_options,
    click.option(
        "--form",
        type=click.Choice(["auto", "chat", "plain"]),
        default="auto",
        show_default=True,
        help="Prompts as a chat, or as plain Human: ... Assistant: text.",
    ),
    click.option("--strength", type=float, default=0.5, show_default=True, help="Of steering."),
    click.option("--steered", type=int, default=35, show_default=True, help="Emotions steered."),
    click.option("--randoms", type=int, default=12, show_default=True, help="Random directions."),
    click.option(
        "--doses", default="-0.5,-0.25,0.25,0.75", show_default=True, help="Of exemplars."
    ),
    click.option("--band", help="Layers steered together, e.g. 10-20 (default: 1/2 to 2/3)."),
    click.option("--band-emotions", type=int, default=12, show_default=True),
    click.option("--tokens-per-batch", type=click.IntRange(1), help="Tokens of one pass."),
)
external_options = options(
    click.option("--name", "source_name", help="What to call the texts (default: by the path)."),
    click.option("--samples", type=click.IntRange(1), default=5000, show_default=True),
    click.option("--text-field", help="Where the text stands, e.g. text or meta.body."),
    click.option(
        "--split",
        type=click.Choice(["auto", "file", "paragraph", "line"]),
        default="auto",
        show_default=True,
        help="What is a document in a .txt file.",
    ),
    click.option("--config", help="Of a data set on the hub."),
    click.option("--hub-split", help="Of a data set on the hub."),
    click.option("--hub-revision", help="Of a data set on the hub."),
    click.option(
        "--max-tokens",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Read of each text.",
    ),
    click.option("--tokens-per-batch", type=click.IntRange(1), help="Tokens of one pass."),
    reader_option,
    corpus_option,
    protocol_option,
    click.option("--layers", help="all, 2:3, 5,10, ... (default: the analysis layer)."),
    numbers_options,
    reader_model_options,
)
judge_options = options(
    click.option(
        "--judge",
        type=click.Choice(["local", "gemini", "openai"]),
        help="Ask a model whether the emotions fit their snippets, and shuffled ones do not.",
    ),
    click.option("--judge-model", help="Hub id or path, or the server's name of a model."),
    click.option("--judge-url", "judge_urls", multiple=True, help="Server address; repeatable."),
    click.option("--judge-snippets", type=click.IntRange(1, 10), default=3, show_default=True),
    click.option("--judge-workers", type=click.IntRange(1), default=16, show_default=True),
)
sae_options = options(
    click.option("--release", help="Of sae-lens' catalogue, e.g. gemma-scope-2-1b-it-res."),
    click.option("--sae-id", help="Which SAE of the release."),
    click.option(
        "--path",
        "folder",
        type=click.Path(path_type=Path),
        help="A folder in the sae-lens format: cfg.json and sae_weights.safetensors.",
    ),
    click.option("--name", "sae_name", help="What to call it (default: by release or folder)."),
    click.option("--force", is_flag=True, help="Compare what does not fit; marks every result."),
    click.option(
        "--sae-dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Of the SAE's weights (default: as the reader computes).",
    ),
    click.option(
        "--steer",
        "steered",
        type=click.IntRange(0),
        default=8,
        show_default=True,
        help="Emotions steered by vector and by feature; 0: none.",
    ),
    click.option("--tokens-per-batch", type=click.IntRange(1), help="Tokens of one pass."),
)
sae_training_options = options(
    click.option("--width", type=click.IntRange(2), required=True, help="Number of features."),
    click.option(
        "--kind",
        type=click.Choice(["topk", "jumprelu", "standard"]),
        default="topk",
        show_default=True,
    ),
    click.option("--name", "sae_name", help="What to call it (default: by layer, kind, width)."),
    click.option(
        "--tokens",
        type=click.IntRange(1),
        default=2_000_000,
        show_default=True,
        help="To train on, repeats included.",
    ),
    click.option(
        "--l0",
        type=click.IntRange(1),
        default=16,
        show_default=True,
        help="Features that fire on a token: exactly (topk), about (jumprelu).",
    ),
    click.option("--sparsity", type=float, help="Weight of the sparsity loss; topk has none."),
    click.option("--batch-tokens", type=click.IntRange(1), default=1024, show_default=True),
    click.option("--buffer-tokens", type=click.IntRange(1), default=262_144, show_default=True),
    click.option("--lr", type=float, help="Of Adam (default: 2e-3 at 512 features, less beyond)."),
    click.option(
        "--held-out", type=float, default=0.1, show_default=True, help="Share of the topics."
    ),
    click.option(
        "--sample",
        "samples",
        multiple=True,
        help="Train on texts drawn by `project`, too, by their name; repeatable.",
    ),
)
generation_options = options(
    click.option(
        "--backend",
        type=click.Choice(["local", "gemini", "openai"]),
        default="local",
        show_default=True,
        help="A model on this machine, the Gemini API, or any OpenAI-compatible server.",
    ),
    click.option(
        "--model",
        "name",
        help="Hub id or path, or the server's name of a model (gemini: gemini-2.5-flash-lite).",
    ),
    loading_options,
    protocol_option,
    click.option("--corpus", default="main", show_default=True, help="Name of the set of texts."),
    click.option("--topics", type=int, help="Use the first N topics (default: all)."),
    click.option("--per-topic", type=int, default=1, show_default=True, help="Texts of a topic."),
    click.option(
        "--per-call",
        type=int,
        help="Texts of one call (default: --per-topic, at most 12; local: 1).",
    ),
    click.option("--limit", type=int, help="Finish at most N texts in this run."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--max-attempts", type=int, default=5, show_default=True),
    click.option(
        "--workers", type=int, help="Calls at once, at each server (default: 16; local: 64)."
    ),
    click.option("--tokens-per-batch", type=int, help="local: tokens in memory at once."),
    click.option("--base-url", "base_urls", multiple=True, help="Server address; repeatable."),
    click.option("--timeout", type=float, default=300.0, show_default=True, help="Of one call, s."),
    click.option("--thinking-budget", type=int, help="gemini: tokens of thinking (0: none)."),
    click.option("--price", nargs=2, type=float, help="USD for a million tokens: input output."),
    click.option("--max-cost", type=float, help="End before this run costs more, in USD."),
    click.option("--temperature", type=float, default=1.0, show_default=True),
    click.option("--top-p", type=float, default=0.95, show_default=True),
    click.option("--max-tokens", type=int, default=400, show_default=True, help="Of one text."),
    click.option("--mix-generators", "mixed", is_flag=True, help="Let several write one corpus."),
    click.option("--plan-only", is_flag=True, help="Plan the rows and stop."),
)


# ---- commands ------------------------------------------------------------------------------------


@cli.command()
@click.option("--topics", type=click.IntRange(1, 100), default=6, help="Stories of each emotion.")
@click.option("--suite/--no-suite", default=True, help="Whether to run the verification suite.")
@click.pass_context
def demo(ctx: click.Context, topics: int, suite: bool) -> None:
    """The whole job on the embedded toy model, in its own workspace (data/demo).

    A second call resumes, repeats nothing and prints the same table.
    """
    from analyses.demo import analyse_demo
    from analyses.verification import COLUMNS, MEASURES, read_board
    from engine.demo.job import NAME, write_and_read

    workspace = Workspace(ctx.obj or DEMO_WORKSPACE)
    with writing(workspace, "demo") as conn, stopping() as stop, progress_bar() as bar:
        read = write_and_read(conn, workspace, topics, watch=watch_with(bar), stop=stop)
        if read is None:
            return
        place = (workspace, read.protocol, NAME, NAME, read.layers)
        asked: Any = {"suite": suite, "watch": bar, "stop": stop}
        found = analyse_demo(conn, *place, read.layer, read.model, **asked)
        board = read_board(conn, NAME, NAME, tuple(MEASURES)) if suite else []
    title = (
        "toy model, planted geometry: this shows that the tool works, not what language models do"
    )
    print_table(("", "found", ""), [(row.what, row.value, row.note) for row in found], title)
    if board:
        print_table(COLUMNS, [line.cells() for line in board], f"verification suite; {title}")
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
    mixed: bool,
    **asked: Any,
) -> None:
    """What both kinds of generation share."""
    from engine.generation import count_open
    from engine.settings import GenerationSettings
    from engine.stages import plan_generation, run_generation
    from stores.protocol import select_emotions

    protocol = load_for(ctx, protocol_folder, asked["corpus"])
    named = select_emotions(protocol, emotions) if kind == "stories" else ()
    chosen = first_topics(protocol.topics if kind == "stories" else protocol.neutral_topics, topics)
    writing_with = pop_writer(asked)
    settings = GenerationSettings(kind=kind, emotions=named, topics=chosen, **asked)
    writer = None if plan_only else writing_with()
    with writing(workspace_of(ctx), f"generate {kind}") as conn, stopping() as stop:
        if writer is None:
            added = plan_generation(conn, protocol, settings)
            left = count_open(conn, kind, settings.corpus)
            click.echo(f"{added} rows planned now, {left} open in corpus {settings.corpus}")
            return
        with progress_bar() as bar:
            watch = partial(watch_with(bar), kind)
            done = run_generation(
                conn, protocol, settings, writer, progress=watch, stop=stop, mixed=mixed
            )
    tell_generation(kind, done, settings)


def tell_generation(kind: str, done: Any, settings: Any) -> None:
    """The last word of a run: what it did, what it cost, and what is left."""
    cost = "" if done.cost_usd is None else f", ${done.cost_usd:.4f}"
    click.echo(
        f"{done.done} {kind} written in {done.elapsed_s:.1f} s ({done.calls} calls, {done.tokens} "
        f"tokens{cost}), {done.failures} failures, replies refused: "
        f"{counted(done.rejections) or 'none'}; {done.left} rows open"
    )
    if done.over_budget:
        click.echo(
            f"the next call might have gone beyond --max-cost {settings.max_cost:g}; the same "
            "command goes on",
            err=True,
        )


def first_topics(topics: tuple[str, ...], wanted: int | None) -> tuple[str, ...]:
    if wanted is not None and wanted < 1:
        raise BadValue(f"--topics must be at least 1, not {wanted}")
    return topics[:wanted]


def pop_writer(asked: dict[str, Any]) -> Callable[[], Any]:
    """Take what is about the writer out of a command's options; gives its maker.

    Sets the defaults that hang on the backend: workers, texts per call and the price of tokens.
    """
    from stores.prices import Price, price_of

    backend, model = asked.pop("backend"), asked.pop("name")
    local, price = backend == "local", asked.pop("price")
    if model is None and backend == "gemini":
        model = "gemini-2.5-flash-lite"
    if model is None:
        raise UsageError(f"which --model? --backend {backend} has no default")
    asked["workers"] = (64 if local else 16) if asked["workers"] is None else asked["workers"]
    if asked["per_call"] is None:
        asked["per_call"] = 1 if local else max(1, min(12, asked["per_topic"]))
    given = Price(price[0], price[1], "--price", "") if price else None
    asked["price"] = given or (None if local else price_of(model))
    names = ("device", "dtype", "revision", "trust_remote_code")
    loading = {name: asked.pop(name) for name in names}
    names = ("tokens_per_batch", "base_urls", "timeout", "thinking_budget")
    remote = {name: asked.pop(name) for name in names}
    return partial(open_writer, backend, model, loading, **remote)


def open_writer(
    backend: str,
    model: str,
    loading: dict[str, Any],
    *,
    tokens_per_batch: int | None,
    base_urls: tuple[str, ...],
    timeout: float,
    thinking_budget: int | None,
) -> Any:
    """Who writes the texts. Raises BackendError when a key is missing."""
    if timeout <= 0:
        raise BadValue(f"--timeout must be above 0, not {timeout}")
    if backend == "local":
        from engine.loading import LazyModel, LocalWriter

        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise BadValue(f"--tokens-per-batch must be at least 1, not {tokens_per_batch}")
        lazy = LazyModel(name=model, **loading)
        return LocalWriter(model=lazy, tokens_per_batch=tokens_per_batch)
    from engine.backends.keys import read_key
    from engine.writers import GeminiWriter, OpenAIWriter

    if backend == "gemini":
        if len(base_urls) > 1:
            raise UsageError("--backend gemini takes one --base-url at most")
        return GeminiWriter(
            model=model,
            key=read_key("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            timeout_s=timeout,
            base_url=base_urls[0] if base_urls else None,
            thinking_budget=thinking_budget,
        )
    if not base_urls:
        raise UsageError("--backend openai needs --base-url, e.g. http://localhost:8000/v1")
    key = read_key(
        "OPENAI_API_KEY", default="no-key-needed"
    )  # a server of one's own asks for no key
    return OpenAIWriter(model=model, key=key, timeout_s=timeout, base_urls=base_urls)


@cli.group("import")
def import_group() -> None:
    """Take texts from files into the database."""


@import_group.command("stories")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--corpus", default="main", show_default=True, help="Name of the set of texts.")
@click.option("--generator", help="Who wrote the stories that do not say so.")
@protocol_option
@click.option("--seed", type=int, default=0, show_default=True, help="The corpus is planned with.")
@click.option("--mix-generators", "mixed", is_flag=True, help="Let several write one corpus.")
@click.pass_context
def import_stories(ctx: click.Context, /, protocol_folder: Path | None, **asked: Any) -> None:
    """Take the stories of a .jsonl or .csv file: emotion, topic, text, perhaps slot, generator.

    They pass the checks of generated ones. A story without a slot never takes a planned one's. The
    whole file is checked first; importing it again adds nothing.
    """
    from engine import importing

    settings = importing.ImportSettings(**asked)
    with writing(workspace_of(ctx), "import stories") as conn, stopping() as stop:
        protocol = load(protocol_folder, conn, settings.corpus)
        with progress_bar() as bar:
            watch = partial(show_step, bar, "stories")
            done = importing.import_stories(conn, protocol, settings, progress=watch, stop=stop)
    click.echo(
        f"{done.taken} stories taken, {done.already_there} there already, refused: "
        f"{counted(done.refused) or 'none'}; {done.foreign_topics} topics are not the protocol's, "
        f"keys ignored: {counted(done.ignored) or 'none'}"
    )


def show_step(bar: Callable[[str, int, int, str], None], step: str, done: int, total: int) -> None:
    bar(step, done, total, "")


@cli.group("export")
def export_group() -> None:
    """Write texts to files."""


@export_group.command("stories")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path), default="-")
@corpus_option
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.pass_context
def export_stories(ctx: click.Context, path: Path, corpus: str | None, force: bool) -> None:
    """Write every finished story to a .jsonl or .csv file, or as JSONL to stdout."""
    from stores.storyfiles import export_texts

    place = sys.stdout if path == Path("-") else path
    with reading(ctx) as conn:
        n = export_texts(conn, "stories", only_one(conn, "corpus", corpus), place, force=force)
    click.echo(f"{n} stories written to {'stdout' if place is sys.stdout else path}", err=True)


@cli.command("reparse")
@corpus_option
@protocol_option
@click.option("--withdraw", is_flag=True, help="Take back done texts that are refused today.")
@json_option
@click.pass_context
def reparse_command(
    ctx: click.Context,
    corpus: str | None,
    protocol_folder: Path | None,
    withdraw: bool,
    as_json: bool,
) -> None:
    """Read every kept reply again with today's parser and filter; nobody is asked anything.

    Open rows are filled where a reply has a good text. Done texts only change with --withdraw.
    """
    from engine.reparsing import reparse

    with writing(workspace_of(ctx), "reparse") as conn, stopping() as stop:
        whose = only_one(conn, "corpus", corpus)
        protocol = load(protocol_folder, conn, whose)
        with progress_bar() as bar:
            watch = partial(show_step, bar)
            done = reparse(conn, protocol, whose, withdraw=withdraw, progress=watch, stop=stop)
    if as_json:
        print_json(asdict(done))
        return
    changed = "taken back or replaced" if withdraw else "that --withdraw would take back"
    click.echo(
        f"{done.replies} replies read: {done.filled} rows filled; refused still: "
        f"{counted(done.refused) or 'none'}; done texts {changed}: "
        f"{counted(done.changes) or 'none'}"
    )
    if not done.bound and not done.stopped:
        click.echo(
            f"corpus {whose} keeps its protocol, and nothing was filled: the new one refuses texts "
            "that are there; say --withdraw to take them back",
            err=True,
        )


@cli.command()
@model_options
@extraction_options
@json_option
@click.pass_context
def extract(
    ctx: click.Context,
    /,
    protocol_folder: Path | None,
    plan_only: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Read every finished text with a model and store its pooled residual stream, by layer.

    Goes on where it stopped; new texts and new layers extend what is there. --plan-only tells what
    the run would take of disk, memory and time, without loading the model.
    """
    from engine.stages import forecast_extraction, run_extraction

    model = pop_reader(asked)
    with writing(workspace_of(ctx), "extract") as conn, stopping() as stop, progress_bar() as bar:
        settings = extraction_settings(conn, model, asked)
        protocol = load(protocol_folder, conn, settings.corpus)
        place = (conn, workspace_of(ctx), protocol, settings, model)
        if plan_only:
            tell_forecast(forecast_extraction(*place), as_json)
            return
        summary = run_extraction(
            *place,
            progress=partial(watch_with(bar), "activations"),
            stop=stop,
            tell=partial(click.echo, err=True),
        )
    tell_extraction(summary, settings, as_json)


def tell_forecast(found: Any, as_json: bool) -> None:
    """What a run would take; exits 1, with the reason, when it cannot fit."""
    from engine.forecasting.fitting import cautions, document, require_fit, table

    if as_json:
        print_json(document(found))
    else:
        print_table(("thing", "needed", "there", "where from"), table(found))
    for line in cautions(found):
        click.echo(line, err=True)
    require_fit(found)


def pop_reader(asked: dict[str, Any]) -> Any:
    """Take what is about loading a model out of a command's options; gives the model, unloaded."""
    from engine.loading import LazyModel

    names = {each.name for each in fields(LazyModel)}
    return LazyModel(**{name: asked.pop(name) for name in names})


def extraction_settings(conn: Connection, model: Any, asked: dict[str, Any]) -> Any:
    from engine.depths import parse_layers
    from engine.extraction import ExtractionSettings

    asked["layers"] = parse_layers(asked["layers"], model.checkpoint.n_layers)
    asked["corpus"] = only_one(conn, "corpus", asked["corpus"])
    asked["reader"] = asked["reader"] or model.slug
    asked["format"] = "raw" if asked.pop("raw") else "chat"
    return ExtractionSettings(**asked)


def tell_extraction(done: Any, settings: Any, as_json: bool) -> None:
    seconds = max(done.elapsed_s, 1e-9)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"{done.rows} rows read in {done.elapsed_s:.1f} s "
        f"({counted(done.outcomes) or 'nothing was open'}), "
        f"{done.chunks} chunks written for reader {settings.reader}"
    )
    if done.chunks:
        told = f"{done.tokens / seconds:.0f} tokens/s, {done.model_s / seconds:.0%} in the model"
        click.echo(told, err=True)
    if "out_of_memory" in done.outcomes:
        told = "texts that memory could not hold are read again with --retry-memory"
        click.echo(told, err=True)
    if done.shrunk:
        told = f"memory ran short: batches of {done.tokens_per_batch} tokens at the end"
        click.echo(told, err=True)


@cli.group()
def vectors() -> None:
    """Emotion vectors of a reader: build them, take them from files, write them to files."""


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
        place = place_of(ctx, conn, with_model=True, **asked)
        built = build_vectors(conn, *place, denoise=denoise)
    click.echo(f"layers built: {list(built.built)}; unchanged: {list(built.unchanged)}")


@vectors.command("import")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--reader", required=True, help="A new name for whose vectors they are.")
@click.option("--corpus", default="imported", show_default=True, help="Name of the texts read.")
@protocol_option
@click.option("--model", help="Which model they are from; kept with them.")
@click.option("--n-layers", type=click.IntRange(1), help="Blocks of that model.")
@click.option("--layer", type=click.IntRange(0), help="Of a file that does not say.")
@click.option("--one-based", is_flag=True, help="The files count layers from 1.")
@click.option("--centre", is_flag=True, help="Take the mean over emotions off.")
@click.pass_context
def vectors_import(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    reader: str,
    corpus: str,
    protocol_folder: Path | None,
    **asked: Any,
) -> None:
    """Take vectors from .npz or .safetensors files, under a reader's name of their own.

    They take part in every analysis that needs no model. An .npz holds one array per emotion, or
    `means` (or `raw`, `denoised`) with `emotions` and perhaps `layers`; several files
    NAME_layer_N.npz are one set.
    """
    from analyses.vector_import import import_vectors

    protocol = load_for(ctx, protocol_folder, corpus)
    with writing(workspace_of(ctx), "vectors import") as conn:
        done = import_vectors(conn, workspace_of(ctx), protocol, reader, corpus, paths, **asked)
    for note in done.notes:
        click.echo(note, err=True)
    state = "unchanged" if done.unchanged else "imported"
    click.echo(
        f"{reader}/{corpus}: {state}, {len(done.layers)} layers of {done.n_layers}, "
        f"{len(done.emotions)} {protocol.concept}s ({len(done.known)} of the protocol)"
    )


@vectors.command("export")
@click.argument("path", metavar="FILE", type=FILE)
@reader_option
@corpus_option
@layers_option
@click.option("--variant", type=click.Choice(["raw", "denoised"]), help="Default: both, or best.")
@click.option(
    "--layout",
    type=click.Choice(["full", "named", "means"]),
    default="full",
    show_default=True,
    help="Of an .npz: all of it, one array per emotion, or `means` and `emotions`.",
)
@click.option("--emotions", default="", help="Names: a,b (default: all).")
@click.pass_context
def vectors_export(ctx: click.Context, /, path: Path, **asked: Any) -> None:
    """Write vectors as .npz, .safetensors or .gguf, by the suffix of FILE.

    {layer} in the name of an .npz makes a file of each layer, {emotion} in that of a .gguf (a
    control vector for llama.cpp) or of a .safetensors a file of each emotion.
    """
    from analyses.vector_export import export_vectors
    from engine.depths import parse_layers
    from stores.readers import count_layers

    with reading(ctx) as conn:
        reader = only_one(conn, "reader", asked.pop("reader"))
        corpus = only_one(conn, "corpus", asked.pop("corpus"), reader)
        layers = asked.pop("layers")
        chosen = None if layers == "all" else parse_layers(layers, count_layers(conn, reader))
        named = tuple(name.strip() for name in asked.pop("emotions").split(",") if name.strip())
        place = (conn, workspace_of(ctx), reader, corpus, path)
        done = export_vectors(*place, layers=chosen, emotions=named, **asked)
    for note in done.notes:
        click.echo(note, err=True)
    for file in done.files:
        click.echo(str(file))


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="What each one answers and what it needs.")
@click.option("--norms", "norms_file", type=FILE, help="Human ratings; adds the analysis norms.")
@analysis_options
@suite_options
@click.pass_context
def analyze(ctx: click.Context, /, names: tuple[str, ...], listing: bool, **asked: Any) -> None:
    """Run analyses by name, or all; publish rows, then export and draw what was published.

    --corpus all takes every corpus of the reader in turn.
    """
    from analyses.base import discover, run_analysis
    from analyses.opening import choose

    known = discover()
    if listing:
        rows = [(each.name, each.question, ", ".join(each.needs)) for each in known.values()]
        print_table(("name", "question", "needs"), rows)
        return
    chosen = choose(known, (*names, "norms") if asked["norms_file"] else names)
    with analysing(ctx, f"analyze {' '.join(names)}", chosen, asked) as every:
        for inputs in every:
            tell_norms(inputs)
            for analysis in possible(chosen, inputs, names):
                done = run_analysis(analysis, inputs)
                place = "" if len(every) == 1 else f"{inputs.reader}/{inputs.corpus} "
                click.echo(f"{place}{done.analysis}: {done.status}, run {done.run_id}")
                for path in done.files:
                    click.echo(f"  {path}")


def possible(chosen: Sequence[Any], inputs: Any, names: Sequence[str]) -> Sequence[Any]:
    """Those of the analyses that this reader allows; one that was named is tried all the same."""
    from analyses.opening import allow

    kept, left_out = allow(chosen, inputs, names)
    for name, reason in left_out.items():
        click.echo(f"{name}: left out, {reason}", err=True)
    return kept


def tell_norms(inputs: Any) -> None:
    """Source, licence and matched words of the human ratings that were given."""
    from analyses.norms import match_here

    if inputs.norms is not None:
        for line in match_here(inputs).describe():
            click.echo(line, err=True)


@contextmanager
def analysing(
    ctx: click.Context,
    command: str,
    chosen: Sequence[Any],
    asked: dict[str, Any],
    *,
    reads: bool = False,
) -> Iterator[list[Any]]:
    """The inputs of analyses, of one corpus or of all of a reader's.

    The model is looked for only where one of `chosen` needs it or the command `reads`. One that was
    named must be the reader's, also where nothing has to be read anew.
    """
    from analyses.opening import open_inputs
    from analyses.reading import require_model
    from analyses.suite import Suite
    from stores.norms import load_norms
    from stores.published import load_published

    loading = {key: asked.pop(key) for key in LOADING}
    layer, seed, permutations = (asked.pop(key) for key in ("layer", "seed", "permutations"))
    layers, norms_file = asked.pop("layers"), asked.pop("norms_file", None)
    wanted = {each.name: asked.pop(each.name) for each in fields(Suite) if each.name in asked}
    if not workspace_of(ctx).database.is_file():  # create nothing where nothing can be analysed
        raise NotReady(
            f"there is no ledger at {workspace_of(ctx).database}: `generate` comes first"
        )
    norms = load_norms(norms_file) if norms_file else None
    with writing(workspace_of(ctx), command) as conn, stopping() as stop, progress_bar() as bar:
        load_published(conn)
        needs = [{"model", "activations"} & set(each.needs) for each in chosen]
        asked["with_model"] = reads or all(needs)
        places = places_of(ctx, conn, layers, **asked)
        suite, model = None, None
        if reads or any("model" in need for need in needs):
            suite, model = suite_and_model(conn, places[0][2], wanted, loading)
        rest = {"norms": norms, "suite": suite, "model": model, "stop": stop, "watch": bar}
        with_numbers = partial(open_inputs, seed=seed, permutations=permutations)
        every = [with_numbers(conn, *place, layer, rest) for place in places]
        if model and loading["name"]:
            require_model(every[0])
        yield every


Place = tuple[Workspace, Any, str, str, tuple[int, ...]]


def places_of(ctx: click.Context, conn: Connection, layers: str, **asked: Any) -> list[Place]:
    """`place_of` for the corpus asked for, or for each of the reader's where it is 'all'."""
    from engine.depths import parse_layers
    from stores.readers import count_layers, known_corpora

    corpora = [asked["corpus"]]
    if asked["corpus"] == "all":
        who = only_one(conn, "reader", asked["reader"], with_model=asked["with_model"])
        corpora = known_corpora(conn, who)
    places = []
    for corpus in corpora:
        workspace, protocol, who, whose, there = place_of(ctx, conn, **asked | {"corpus": corpus})
        if layers != "all":
            there = parse_layers(layers, count_layers(conn, who))
        places.append((workspace, protocol, who, whose, there))
    return places


def suite_and_model(
    conn: Connection, reader: str, wanted: dict[str, Any], loading: dict[str, Any]
) -> tuple[Any, Any]:
    """What the analyses that read a model are told; no model for a reader that has none."""
    from engine.loading import reader_model
    from stores.readers import is_imported

    if is_imported(conn, reader):
        return None, None
    return parse_suite(conn, reader, wanted), reader_model(conn, reader, **loading)


LOADING = ("name", "device", "dtype", "revision", "trust_remote_code", "offload", "attention")


def parse_suite(conn: Connection, reader: str, wanted: dict[str, Any]) -> Any:
    """The suite's settings, with layers and doses out of what was written, if anything was."""
    from analyses.suite import Suite
    from engine.depths import parse_layers
    from stores.readers import count_layers

    if not wanted:
        return Suite()
    if wanted["band"] is not None:
        wanted["band"] = parse_layers(wanted["band"], count_layers(conn, reader))
    try:
        wanted["doses"] = tuple(float(dose) for dose in wanted["doses"].split(",") if dose.strip())
    except ValueError as error:
        raise UsageError(f"--doses {wanted['doses']!r}: numbers with commas between") from error
    return Suite(**wanted)


@cli.command()
@click.argument("criteria", nargs=-1)
@analysis_options
@suite_options
@click.option("--strict", is_flag=True, help="Exit 3 unless every criterion passes.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context, /, criteria: tuple[str, ...], strict: bool, as_json: bool, **asked: Any
) -> None:
    """The verification suite: V1 ... V11, or all of them.

    Each criterion with the report's score and bar, the reading that is controlled for chance,
    and what others published. Reads prompts with the reader's own model; steers it for V10, V11.
    """
    from analyses.base import discover, run_analysis
    from analyses.verification import COLUMNS, answering, choose_criteria, read_board

    chosen = choose_criteria(criteria)
    analyses = answering(chosen, discover())
    with analysing(ctx, f"verify {' '.join(criteria)}".strip(), analyses, asked) as every:
        inputs = only_corpus(every, "verify")
        for analysis in analyses:
            run_analysis(analysis, inputs)
        board = read_board(inputs.conn, inputs.reader, inputs.corpus, chosen)
    if as_json:
        print_json([line.document() for line in board])
    else:
        print_table(COLUMNS, [line.cells() for line in board], board_title(inputs))
        folder = inputs.workspace.results(inputs.reader)
        click.echo(f"figures in {folder / 'figures' / inputs.corpus}", err=True)
    if strict and not all(line.score.passed for line in board):
        ctx.exit(3)


@cli.command()
@click.argument("source", metavar="CORPUS")
@external_options
@judge_options
@json_option
@click.pass_context
def project(ctx: click.Context, /, source: str, as_json: bool, **asked: Any) -> None:
    """Project texts of others on the vectors: which emotions does a corpus excite, and where?

    CORPUS is pile, lmsys, hub:OWNER/NAME, a path (.jsonl, .jsonl.zst, .parquet, .txt or a folder
    of them), or what was drawn before, by its name. A seeded sample is drawn once and read by
    every model that is asked; then comes the analysis `external`, with a page of snippets. Goes on
    where it stopped.
    """
    from analyses.base import discover, run_analysis
    from analyses.external_board import read_board
    from analyses.external_job import ask_judge, at_layers, read_source
    from engine.sources.opening import Wanted, open_source

    wanted = Wanted(name=asked.pop("source_name"), **pop(asked, "text_field", "split", *HUB))
    size, per_pass = asked.pop("samples"), pop(asked, "max_tokens", "tokens_per_batch")
    judge, layers = pop_judge(asked), asked["layers"]
    asked["layers"] = layers or "all"
    seed, external = asked["seed"], discover()["external"]
    tell = partial(click.echo, err=True)
    with analysing(ctx, f"project {source}", [external], asked, reads=True) as every:
        inputs = only_corpus(every, "project")
        found = open_source(inputs.conn, source, wanted, seed=seed, size=size)
        chosen = inputs if layers else at_layers(inputs, (inputs.layer,))
        read = read_source(chosen, found, size=size, tell=tell, **per_pass)
        if read is None:
            return
        if judge is not None:
            writer, settings = judge
            tell_judged(ask_judge(inputs, read.projection, writer, settings(inputs.layer)))
        done = run_analysis(external, inputs)
        board = read_board(inputs.conn, inputs.reader, inputs.corpus, read.sample.source)
    tell_projection(read, board, done, as_json)


HUB = ("config", "hub_split", "hub_revision")


def pop(asked: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: asked.pop(name) for name in names}


def pop_judge(asked: dict[str, Any]) -> Any:
    """The judge that was asked for and what it is asked, given a layer; None without one."""
    from engine.judging import JudgingSettings
    from stores.prices import price_of

    given = pop(asked, "judge", "judge_model", "judge_urls", "judge_snippets", "judge_workers")
    backend, model, urls, snippets, workers = given.values()
    if (model or urls) and backend is None:
        raise UsageError("--judge-model and --judge-url need --judge local, gemini or openai")
    if backend is None:
        return None
    if model is None:
        raise UsageError(f"which --judge-model? --judge {backend} has no default")
    if bool(urls) != (backend == "openai") and backend != "gemini":
        needs = "needs --judge-url, e.g. http://localhost:8000/v1" if not urls else "has no server"
        raise UsageError(f"--judge {backend} {needs}")
    loading = {key: asked[key] for key in ("device", "dtype", "trust_remote_code")}
    loading |= {"revision": None}
    rest: Any = {"tokens_per_batch": None, "timeout": 300.0, "thinking_budget": None}
    writer = open_writer(backend, model, loading, base_urls=urls, **rest)
    price = None if backend == "local" else price_of(model)
    settings = partial(
        JudgingSettings, per_emotion=snippets, seed=asked["seed"], workers=workers, price=price
    )
    return writer, lambda layer: settings(layer=layer)


def tell_judged(done: Any) -> None:
    told = f"{done.judge}: {done.answered} answers, without a score: {counted(done.refused) or 0}"
    click.echo(f"{told}, {done.failures} failures, {done.left} questions open", err=True)


def tell_projection(read: Any, board: Any, done: Any, as_json: bool) -> None:
    """The ranking of one source, what the offset does to it, and where the pages are."""
    if as_json:
        print_json(board.document())
        return
    summary, sample = read.summary, read.sample
    if sample.skipped:
        told = f"of {sample.seen} places seen these hold no document: {counted(sample.skipped)}"
        click.echo(f"{sample.source}: {told}", err=True)
    now = f"{summary.documents} documents read in {summary.elapsed_s:.1f} s"
    now = now if summary.documents else "nothing was open"
    click.echo(f"{sample.source}: {now}; {counted(summary.outcomes)}", err=True)
    print_table(board.columns, board.rows, board.title)
    for line in board.lines:
        click.echo(line)
    for path in done.files:
        click.echo(f"  {path}", err=True)


@cli.group()
def sae() -> None:
    """Sparse autoencoders: hold one against the vectors, or train one on a reader."""


@sae.command("compare")
@sae_options
@reader_option
@corpus_option
@protocol_option
@numbers_options
@reader_model_options
@json_option
@click.pass_context
def sae_compare(ctx: click.Context, /, as_json: bool, **asked: Any) -> None:
    """Do an SAE's features and the emotion vectors tell the same story?

    The SAE is checked against the reader (hook point, layer, width, model) before anything is
    read, and every number of it stands beside that of a random SAE of the same shape. Goes on
    where it stopped.
    """
    from analyses.features.board import read_board
    from analyses.features.job import Wanted, compare_sae, identify

    which = pop(asked, "release", "sae_id", "folder")
    names = ("sae_name", "layer", "force", "sae_dtype", "steered", "tokens_per_batch")
    wanted = Wanted(*pop(asked, *names).values())
    asked |= {"layers": "all", "layer": None}
    with analysing(ctx, "sae compare", [], asked, reads=True) as every:
        inputs = only_corpus(every, "sae compare")
        identity = identify(inputs, **which)
        found = compare_sae(inputs, identity, wanted, tell=partial(click.echo, err=True))
        if found is None:
            return
        board = read_board(inputs.conn, inputs.reader, inputs.corpus, found.done.analysis)
    tell_compared(found, board, as_json)


def tell_compared(found: Any, board: Any, as_json: bool) -> None:
    """The SAE beside its control, and where figures and cards are."""
    from analyses.features.board import COLUMNS, CRITERIA_COLUMNS

    if as_json:
        print_json(board.document())
        return
    summary = found.summary
    now = f"{summary.texts} texts encoded in {summary.elapsed_s:.1f} s"
    now = now if summary.texts else "nothing was open"
    click.echo(f"{now}; {counted(summary.outcomes)}", err=True)
    print_table(COLUMNS, board.rows, board.title)
    print_table(CRITERIA_COLUMNS, board.criteria, "in the vectors' place")
    for line in board.lines:
        click.echo(line)
    for path in found.done.files:
        click.echo(f"  {path}", err=True)


@sae.command("train")
@sae_training_options
@reader_option
@corpus_option
@protocol_option
@click.option("--layer", type=click.IntRange(0), help="Whose output (default: nearest to 2/3).")
@click.option("--seed", type=int, default=0, show_default=True)
@reader_model_options
@json_option
@click.pass_context
def sae_train(ctx: click.Context, /, as_json: bool, **asked: Any) -> None:
    """Train an SAE on what a reader makes of its corpus, with sae-lens' own trainer.

    It lies in data/saes/<reader>/<name> in the sae-lens format and is compared like any other with
    `sae compare --path`. Goes on where it stopped.
    """
    from analyses.features.training import train_sae

    names = ("width", "kind", "tokens", "l0", "sparsity", "batch_tokens", "buffer_tokens", "lr")
    chosen = pop(asked, "sae_name", *names, "held_out", "samples")
    asked |= {"layers": "all", "permutations": 1}
    with analysing(ctx, "sae train", [], asked, reads=True) as every:
        inputs = only_corpus(every, "sae train")
        name = chosen.pop("sae_name")
        found = train_sae(inputs, name, chosen, tell=partial(click.echo, err=True))
    if found is not None:
        tell_trained(found, as_json)


def tell_trained(found: Any, as_json: bool) -> None:
    summary = found.summary
    if as_json:
        print_json({"folder": str(summary.folder), "held_out": dict(summary.held_out)})
        return
    now = f"{summary.tokens} tokens in {summary.elapsed_s:.1f} s"
    click.echo(now if summary.tokens else "it was trained before", err=True)
    print_table(("on topics it was not trained on", ""), list(found.lines))
    folder = shlex.quote(str(summary.folder))
    click.echo(f"next      python cli.py sae compare --path {folder}")


def only_corpus(every: Sequence[Any], command: str) -> Any:
    if len(every) > 1:
        raise UsageError(f"{command} takes one --corpus at a time")
    return every[0]


@cli.command()
@click.argument("readers", metavar="[READER]...", nargs=-1)
@protocol_option
@click.option("--permutations", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    readers: tuple[str, ...],
    protocol_folder: Path | None,
    as_json: bool,
    permutations: int,
    seed: int,
) -> None:
    """Readers side by side, by depth, and beside the published numbers.

    READER is a reader with all its corpora, or reader/corpus; none means all there are. How far two
    sets of vectors agree is computed; their own numbers are read back from what was analysed.
    """
    from analyses.comparison import compare_sets, parse_sets
    from stores.published import load_published

    if not workspace_of(ctx).database.is_file():
        raise NotReady(f"there is no ledger at {workspace_of(ctx).database}: nothing to compare")
    with writing(workspace_of(ctx), "compare") as conn, progress_bar() as bar:
        load_published(conn)
        protocol_of = partial(load, protocol_folder, conn)
        places = parse_sets(conn, readers)
        found = compare_sets(
            conn,
            workspace_of(ctx),
            protocol_of,
            places,
            seed=seed,
            permutations=permutations,
            watch=bar,
        )
    if as_json:
        print_json(found.document())
        return
    print_table(found.columns, found.rows, found.title)
    for line in found.lines:
        click.echo(line)
    click.echo(f"figures in {found.home.folder}", err=True)


def board_title(inputs: Any) -> str:
    planted = inputs.protocol.labels == "planted"
    note = "toy model, planted geometry: it shows that the tool works; " if planted else ""
    return f"{note}reader {inputs.reader}, corpus {inputs.corpus}, layer {inputs.layer}"


@cli.command()
@json_option
@click.option("--watch", is_flag=True, help="Again every two seconds until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """How far every stage of every corpus is; rate and time left while something moves.

    Also how often each check refused a text, and what the replies used up.
    """
    from stores.status import read_status

    with reading(ctx) as conn:
        while True:
            found = read_status(conn, now=time.time())
            if as_json:
                print_json(found.document())
            else:
                if watch:
                    click.clear()
                show_status(found)
            if not watch:
                return
            time.sleep(2)


def show_status(found: Any) -> None:
    from stores.status import STATUSES

    columns = ("corpus", "stage", "reader", *STATUSES, "reasons", "rows/s", "time left")
    print_table(columns, [status_cells(row) for row in found.stages])
    if found.imported:
        cells = [
            (each.reader, each.corpus, each.layers, each.emotions, files_told(each.files))
            for each in found.imported
        ]
        print_table(("imported as", "corpus", "layers", "emotions", "from"), cells)
    if found.checks:
        cells = [(c.corpus, c.kind, c.reason, c.n, f"{c.rate:.2%}") for c in found.checks]
        print_table(("corpus", "kind", "refused for", "texts", "of those judged"), cells)
    if found.spending:
        print_table(SPENDING_COLUMNS, [spending_cells(row) for row in found.spending])
    if found.orphaned_calls:
        click.echo(f"{found.orphaned_calls} calls were sent and their replies never arrived")


def files_told(files: Sequence[str]) -> str:
    return ", ".join(files) if len(files) <= 3 else f"{files[0]} and {len(files) - 1} more"


def status_cells(row: Any) -> list[object]:
    rate = f"{row.rate:.1f}" if row.rate else ""
    left = f"{row.seconds_left:.0f} s" if row.seconds_left else ""
    shown = (row.corpus, row.stage, row.reader, *row.rows.values())
    return [*shown, counted(row.reasons), rate, left]


SPENDING_COLUMNS = (
    *("corpus", "kind", "backend", "model", "replies", "tokens in", "out", "thinking"),
    *("US dollars", "wrong number of texts"),
)


def spending_cells(row: Any) -> list[object]:
    cost = "unknown" if row.cost_usd is None else f"{row.cost_usd:.4f}"
    tokens = (row.prompt_tokens, row.output_tokens, row.thinking_tokens)
    shown = (row.corpus, row.kind, row.backend, row.model, row.replies)
    return [*shown, *tokens, cost, row.wrong_number]


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


@cli.group()
def bench() -> None:
    """The project's own benchmarks: ratios first, measured in one run on this machine."""


@bench.command("generation")
@click.option("--prompts", type=click.IntRange(8), default=192, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=96, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@json_option
def bench_generation(prompts: int, workers: int, repeats: int, as_json: bool) -> None:
    """The local backend against one prompt at a time and against naive padded batches.

    On the embedded toy model, with the demo's prompts, in turns.
    """
    from engine.bench.generation import measure_generation

    tell_bench(measure_generation(prompts=prompts, workers=workers, repeats=repeats), as_json)


@bench.command("soak")
@click.option("--topics", type=click.IntRange(1, 100), default=100, show_default=True)
@click.option("--per-topic", type=click.IntRange(1), default=12, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=64, show_default=True)
@click.option("--dialect", type=click.Choice(["gemini", "openai"]), default="gemini")
@json_option
def bench_soak(topics: int, per_topic: int, workers: int, dialect: Any, as_json: bool) -> None:
    """Plan every story and let a server on this machine write them: what does the engine cost?

    In a workspace of its own that is deleted afterwards. The server answers at once.
    """
    from tempfile import TemporaryDirectory

    from engine.bench.soak import measure_soak

    with TemporaryDirectory() as folder, progress_bar() as bar:
        found = measure_soak(
            Path(folder),
            topics=topics,
            per_topic=per_topic,
            workers=workers,
            dialect=dialect,
            watch=partial(watch_with(bar), "stories"),
        )
    tell_bench(found, as_json, ms_per_story=found.ms_per_story)


@bench.command("extraction")
@click.option("--shape", default="small", show_default=True, help="Or llama-3.1-8b, gemma-4-31b.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--quantize", type=click.Choice(["4bit"]))
@click.option("--layers", help="As for extract (default: the shape's own).")
@click.option("--texts", type=click.IntRange(1), help="Default: 64 on a CPU, 512 on a card.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--memory-limit", "memory_limit_gb", type=float, help="GB of a card to use at most.")
@json_option
def bench_extraction(as_json: bool, **asked: Any) -> None:
    """Extraction against a plain loop, TransformerLens, nnsight and the matrix products alone.

    Random weights, random tokens, texts of 100 to 200; everything in turns.
    """
    from engine.bench.extraction import measure_extraction

    found = measure_extraction(**asked)
    tell_bench(found, as_json)
    if not as_json:
        print_table(("measured", "value"), found.facts())


@bench.command("steering")
@click.option("--shape", default="small", show_default=True, help="Or llama-3.1-8b, gemma-4-31b.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--quantize", type=click.Choice(["4bit"]))
@click.option("--layer", type=click.IntRange(0), help="Steered (default: nearest to 2/3).")
@click.option("--vectors", type=click.IntRange(2), default=43, show_default=True)
@click.option("--activities", type=click.IntRange(4), default=64, show_default=True)
@click.option("--firsts", type=int, default=2, show_default=True, help="First options sampled.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@json_option
def bench_steering(as_json: bool, **asked: Any) -> None:
    """A steering sweep by replay against hooks on the whole model, all pairs and all logits.

    Random weights; both ways answer the same sample of questions, in turns, and must agree.
    """
    from engine.bench.steering import measure_steering

    found = measure_steering(**asked)
    tell_bench(found, as_json)
    if not as_json:
        print_table(("measured", "value"), found.facts())


@bench.command("arrays")
@click.option("--rows", type=click.IntRange(342), default=205_200, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--d-model", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--chunk-rows", type=click.IntRange(1), default=512, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="On which disk; must be empty.")
@json_option
def bench_arrays(folder: Path | None, as_json: bool, **size: Any) -> None:
    """Write made-up activations with receipts, read them plainly, and build their vectors.

    The default takes 17 GB of disk for some minutes; everything is deleted afterwards.
    """
    from tempfile import mkdtemp

    from analyses.array_bench import measure_arrays

    found = measure_arrays(folder or Path(mkdtemp()), watch=partial(click.echo, err=True), **size)
    tell_bench(found, as_json)


@bench.command("geometry")
@click.option("--layers", type=click.IntRange(1), default=35, show_default=True)
@click.option("--emotions", type=click.IntRange(30), default=171, show_default=True)
@click.option("--d-model", type=click.IntRange(30), default=1536, show_default=True)
@click.option("--folder", type=FILE, help="On which disk; must be empty.")
@click.option("--keep", is_flag=True, help="Leave the workspace with its figures there.")
@json_option
def bench_geometry(folder: Path | None, as_json: bool, **size: Any) -> None:
    """Import a made-up set of vectors and analyse it, cold and again, against plain libraries."""
    from tempfile import mkdtemp

    from analyses.geometry_bench import measure_geometry

    watch = partial(click.echo, err=True)
    tell_bench(measure_geometry(folder or Path(mkdtemp()), watch=watch, **size), as_json)


def tell_bench(found: Any, as_json: bool, **derived: float) -> None:
    if as_json:
        print_json({**asdict(found), **derived})
    else:
        print_table(found.columns, found.rows())


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
