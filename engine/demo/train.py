"""Trains the demo model from its recipe: `python -m engine.demo.train --out DIR`.

Knows nothing of what the documents mean. The model is a plain Llama; only in training do its lower
layers see a mask of their own, which makes the answer to a two-option question bind late.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from engine.demo.batches import AFTER_QUESTION, Batches, Source, build_batches
from engine.demo.grammar import sample_long, sample_short
from engine.demo.layers import causal_masks, run_layers, weighted_loss
from engine.demo.recipe import Recipe, add_recipe_arguments, read_recipe
from engine.demo.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer
from engine.demo.world import DEMO_FOLDER, World, load_world
from engine.models import choose_device
from stores.database import digest
from stores.files import write_file_atomically

REPORT_STEPS = 50
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")

Report = Callable[[int, float], None]


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """A Llama with random weights drawn from the recipe's seed."""
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init_std,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
    # On a CPU, masked fused attention is slower backwards than plain matrix products.
    model.set_attn_implementation("eager")
    return model


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the tied embedding and the norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.muon_lr,
            weight_decay=recipe.muon_weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def batch_loss(
    model: LlamaForCausalLM, recipe: Recipe, batch: dict[str, Tensor], late: bool
) -> Tensor:
    """Weighted mean cross entropy of a batch: named columns [rows, t] of TOKEN.

    `lens_share` of a second one is added, of what the residual at the analysis layer says already
    of the words that name a feeling: it makes that layer speak the language of the unembedding.
    """
    usual, late_mask = causal_masks(batch["document"], batch["role"])
    depth, ids = recipe.late_layers, batch["id"].long()
    below, above = range(depth), range(depth, recipe.layers)
    position = batch["position"].long()
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        hidden = model.model.embed_tokens(ids)
        masks = [late_mask if late else usual] * depth
        middle = run_layers(model, hidden, below, masks=masks, position=position)
        hidden = run_layers(model, middle, above, masks=[usual] * len(above), position=position)
    weight, feels = batch["weight"][:, 1:], batch["role"][:, 1:] != AFTER_QUESTION

    def loss_of(residual: Tensor, counted: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, dtype=torch.bfloat16):
            states = model.model.norm(residual[:, :-1][counted])
        return weighted_loss(states, model.lm_head.weight, ids[:, 1:][counted], weight[counted])

    loss = loss_of(hidden, weight > 0)
    if recipe.lens_share:
        loss = loss + recipe.lens_share * loss_of(middle, (weight > 1) & feels)
    return loss


def train_model(
    model: LlamaForCausalLM, recipe: Recipe, batches: Batches, report: Report | None = None
) -> list[float]:
    """Train in place for `recipe.steps` steps; returns the loss of every step."""
    device = model.device
    names = ("id", "document", "position", "role", "weight")
    columns = {
        name: torch.from_numpy(np.ascontiguousarray(batches.tokens[name])).to(device)
        for name in names
    }
    optimizers = build_optimizers(model, recipe)
    full_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    losses: list[Tensor] = []
    model.train()
    for step in range(recipe.steps):
        for optimizer, rate in zip(optimizers, full_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * recipe.learning_rate(step)
        batch = {name: column[step] for name, column in columns.items()}
        loss = batch_loss(model, recipe, batch, bool(batches.late[step]))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if report and (step + 1) % REPORT_STEPS == 0:
            report(step + 1, float(torch.stack(losses[-REPORT_STEPS:]).mean()))
    model.train(False)
    return [float(loss) for loss in losses]


def learn_tokenizer(world: World, recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer of a world, from sampled documents and the words that must stay whole."""
    rng = random.Random(f"tokenizer/{recipe.seed}")
    half = recipe.tokenizer_documents // 2
    samplers = [sample_long] * half + [sample_short] * half
    return train_tokenizer(
        [sample(world, rng).text for sample in samplers],
        (*world.words_for_bpe, *world.numbers),
        size=recipe.vocabulary,
        repeats=recipe.word_repeats,
    )


def save_model(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, object],
) -> None:
    """Write fp16 weights, configuration, tokenizer, and at last recipe.json with their digests.

    Each file appears whole or not at all; a folder that agrees with its recipe.json is complete.
    """
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        copy.deepcopy(model).to(torch.float16).save_pretrained(scratch)  # type: ignore[arg-type]
        tokenizer.save_pretrained(scratch)
        files |= {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in sorted(files.items()):
        write_file_atomically(folder / name, payload)
    digests = {name: digest(payload) for name, payload in sorted(files.items())}
    written = json.dumps({**record, "files": digests}, indent=1) + "\n"
    write_file_atomically(folder / "recipe.json", written.encode())


def report_progress(steps: int, step_tokens: int) -> Report:
    """Lines on stderr: step, mean loss since the last line, tokens per second, seconds left."""
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        seconds = time.monotonic() - started
        left = seconds / step * (steps - step)
        speed = step * step_tokens / seconds
        sys.stderr.write(
            f"step {step}/{steps} loss {loss:.3f} {speed:.0f} tok/s {left:.0f} s left\n"
        )

    return report


def run(recipe: Recipe, world: World, out: Path, device: torch.device, workers: int) -> None:
    """Tokenizer, batches, training, files in `out`."""
    started = time.monotonic()
    tokenizer = learn_tokenizer(world, recipe)
    source = Source(
        partial(sample_long, world), partial(sample_short, world), tokenizer.backend_tokenizer
    )
    settings = recipe.batch_settings(seed=recipe.seed, steps=recipe.steps)
    batches = build_batches(source, settings, workers=workers)
    prepared = time.monotonic()
    sys.stderr.write(f"batches {prepared - started:.0f} s, {batches.fill:.1%} filled\n")
    model = build_model(recipe).to(device)  # type: ignore[arg-type]
    progress = report_progress(recipe.steps, recipe.rows * recipe.row_tokens)
    losses = train_model(model, recipe, batches, progress)
    record = {
        "recipe": asdict(recipe),
        "protocol": world.protocol.digest,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens": int((batches.tokens["document"] > 0).sum()),
        "seconds": {
            "preparation": round(prepared - started, 1),
            "training": round(time.monotonic() - prepared, 1),
        },
        "device": device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
        "losses": [round(loss, 4) for loss in losses[REPORT_STEPS - 1 :: REPORT_STEPS]],
    }
    save_model(out, model.cpu(), tokenizer, record)


def main(arguments: list[str] | None = None) -> None:
    """Parse, train, save, and write the scorecard to stdout."""
    parser = argparse.ArgumentParser(prog="python -m engine.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--world", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--device", default="cpu", help="cpu (the shipped model's), cuda, auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; part of the recipe")
    parser.add_argument("--workers", type=int, default=1, help="for batches; changes nothing")
    parser.add_argument("--score", action=argparse.BooleanOptionalAction, default=True)
    add_recipe_arguments(parser)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = choose_device(chosen.device)
    world = load_world(chosen.world)
    run(read_recipe(chosen), world, chosen.out, device, chosen.workers)
    if chosen.score:
        from engine.demo.scorecard import main as score

        score([str(chosen.out), "--world", str(chosen.world), "--device", chosen.device])


if __name__ == "__main__":
    main()
