"""What a user asks for becomes inputs, or one line that says what there is."""

import numpy as np
import pytest

from analyses.base import discover
from analyses.opening import choose, open_inputs
from stores.database import Connection
from stores.errors import NotReady, UsageError
from stores.readers import count_layers
from stores.workspace import Workspace
from tests.analyses.lab import CORPUS, READER, open_lab, story_plan, write_activations, write_texts
from tests.analyses.planted import planted_world

DEEP = (0, 4, 5, 6, 8)


def test_names_and_all_choose_each_analysis_once() -> None:
    known = discover()
    assert [each.name for each in choose(known, ["geometry", "geometry"])] == ["geometry"]
    assert choose(known, ["all"]) == list(known.values())


@pytest.mark.parametrize("names", [[], ["nonsense"]])
def test_a_wrong_name_lists_the_right_ones(names: list[str]) -> None:
    with pytest.raises(UsageError, match="geometry"):
        choose(discover(), names)


def test_the_analysis_layer_is_the_extracted_one_nearest_to_two_thirds(
    conn: Connection, workspace: Workspace
) -> None:
    lab = open_lab(conn, workspace, planted_world(e=8, d=4, families=2))
    place = (conn, workspace, lab.protocol, READER, CORPUS)
    with pytest.raises(NotReady, match="no layer"):
        open_inputs(*place, (), None, seed=0, permutations=9)
    write_texts(lab, "stories", story_plan(lab.protocol.names))
    write_activations(lab, "stories", dict.fromkeys(DEEP, lambda _: np.zeros(4)), d_model=4)
    depth = count_layers(conn, READER)
    for layers in ((0,), (0, 8), DEEP):
        inputs = open_inputs(*place, layers, None, seed=0, permutations=9)
        distances = [abs((layer + 1) / depth - 2 / 3) for layer in layers]
        assert inputs.layer == layers[distances.index(min(distances))]
    assert open_inputs(*place, DEEP, 0, seed=0, permutations=9).layer == 0
    with pytest.raises(UsageError, match="analysis layer 7"):
        open_inputs(*place, DEEP, 7, seed=0, permutations=9)
