"""The demo's two SAEs: the small one that ships with the toy model, and a random one of its shape.

Knows nothing of texts or terminals. What is found here was planted: it shows that the tool works,
and, where nothing was learned, that it says so.
"""

from analyses.base import Inputs
from analyses.features.job import Wanted, analysis_name, compare_sae, identify
from analyses.keeping import Rows
from stores.database import Connection
from stores.errors import Stopped
from stores.results import read_metrics

TRAINED, RANDOM = "trained", "random"
SEED, STEERED = 0, 8


def compare_saes(inputs: Inputs, *, steered: int = STEERED) -> None:
    """Hold both against the vectors at the analysis layer. Raises Stopped."""
    from engine.demo.job import DEMO_SAE
    from engine.demo.random_sae import write_random

    folder = inputs.workspace.saes(inputs.reader) / RANDOM
    write_random(DEMO_SAE, folder, SEED)
    for name, path, wanted in ((TRAINED, DEMO_SAE, steered), (RANDOM, folder, 0)):
        found = compare_sae(
            inputs, identify(inputs, None, None, path), Wanted(name, steered=wanted)
        )
        if found is None:
            raise Stopped(f"stopped while the codes of the {name} SAE were read")


def summarise_saes(conn: Connection, reader: str, corpus: str) -> list[tuple[str, str, str]]:
    """Lines of the closing table: what, value, note."""
    trained, random = (_rows(conn, reader, corpus, name) for name in (TRAINED, RANDOM))
    cosine, found = trained.select("cosine.mean")[0], trained.select("cosine.found")[0]
    by_chance = random.select("cosine.mean")[0], random.select("cosine.found")[0]
    auc, gain = trained.select("auc.mean")[0], trained.select("auc.gain")[0]
    rebuilt = trained.select("rebuild.denoised.1")[0]
    return [
        (
            "SAE features near the vectors",
            f"{found.value:.0f} of {found.n} emotions, mean cosine {cosine.value:.2f}",
            f"a random SAE: {by_chance[1].value:.0f}, {by_chance[0].value:.2f}; null "
            f"{cosine.chance:.2f}",
        ),
        (
            "vectors rebuilt from one feature",
            f"{rebuilt.value:.0%} of their squared length",
            f"random control: {rebuilt.chance:.0%}",
        ),
        (
            "features that tell an emotion",
            f"AUC {auc.value:.2f} on other topics",
            f"random control: {auc.chance:.2f}; gain {gain.value:+.2f} (p = {gain.p_value:.2g})",
        ),
    ]


def _rows(conn: Connection, reader: str, corpus: str, name: str) -> Rows:
    return Rows(tuple(read_metrics(conn, reader, corpus, analysis_name(name, ()))), ())
