"""The demo's two SAEs: the small one that ships with the toy model, and a random one of its shape.

Knows nothing of texts or terminals. What is found here was planted: it shows that the tool works,
and, where nothing was learned, that it says so.
"""

from analyses.base import Inputs
from analyses.features.job import Wanted, analysis_name, compare_sae, identify
from analyses.features.reading import require_comparable
from stores.database import Connection
from stores.errors import NotReady, Stopped
from stores.results import Metric, read_metrics

TRAINED, RANDOM = "trained", "random"
SEED, STEERED = 0, 8


def compare_saes(inputs: Inputs, *, steered: int = STEERED) -> str:
    """Hold both against the vectors at the analysis layer; why not, where it cannot be: stories
    about one topic alone. Raises Stopped."""
    from engine.demo.job import DEMO_SAE
    from engine.demo.random_sae import write_random

    try:
        require_comparable(inputs)
    except NotReady as refusal:
        return str(refusal)
    folder = inputs.workspace.saes(inputs.reader) / RANDOM
    write_random(DEMO_SAE, folder, SEED)
    for name, path, wanted in ((TRAINED, DEMO_SAE, steered), (RANDOM, folder, 0)):
        found = compare_sae(
            inputs, identify(inputs, None, None, path), Wanted(name, steered=wanted)
        )
        if found is None:
            raise Stopped(f"stopped while the codes of the {name} SAE were read")
    return ""


def summarise_saes(conn: Connection, reader: str, corpus: str) -> list[tuple[str, str, str]]:
    """Lines of the closing table: what, value, note."""
    trained, random = (_rows(conn, reader, corpus, name) for name in (TRAINED, RANDOM))
    found, cosine, rebuilt = (
        trained[metric] for metric in ("cosine.found", "cosine.mean", "rebuild.denoised.1")
    )
    none, apart = random["cosine.found"], random["cosine.mean"]
    lines = [
        (
            "SAE features near the vectors",
            f"{found.value:.0f} of {cosine.n} emotions, mean cosine {cosine.value:.2f}",
            f"a random SAE: {none.value:.0f}, {apart.value:.2f}; null {cosine.chance:.2f}",
        ),
        (
            "vectors rebuilt from one feature",
            f"{rebuilt.value:.0%} of their squared length",
            f"random control: {rebuilt.chance:.0%}",
        ),
    ]
    if "auc.gain" not in trained:  # an emotion needs stories in both halves of the topics
        return lines
    auc, gain = trained["auc.mean"], trained["auc.gain"]
    by_chance = f"random control: {auc.chance:.2f}; gain {gain.value:+.2f} (p = {gain.p_value:.2g})"
    told = f"AUC {auc.value:.2f} on other topics"
    return [*lines, ("features that tell an emotion", told, by_chance)]


def _rows(conn: Connection, reader: str, corpus: str, name: str) -> dict[str, Metric]:
    """The rows that are about the whole SAE, by metric."""
    rows = read_metrics(conn, reader, corpus, analysis_name(name, ()))
    return {row.metric: row for row in rows if row.subject is None}
