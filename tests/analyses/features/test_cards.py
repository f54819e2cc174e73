"""Laws of the cards: their features are the best ones, their numbers those of codes and rows."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import rankdata

from analyses.base import Result, Rows
from analyses.features.cards import (
    MOST,
    TEXTS,
    describe_feature,
    make_cards,
    order_features,
)
from analyses.features.choosing import find_best
from analyses.features.comparison import compare_features, figures
from analyses.features.page import NUMBERS, pages
from analyses.features.reading import Crosscheck, Ints
from analyses.markup import plain
from engine.features.snippets import WINDOW
from stores.database import open_database
from stores.workspace import Workspace
from tests.analyses.features.crosschecks import make_crosscheck
from tests.analyses.planted import Floats


@dataclass(frozen=True, eq=False)
class Made:
    found: Crosscheck
    chosen: dict[str, Ints]
    rows: Rows

    def table(self, name: str) -> list[dict[str, Any]]:
        return list(self.rows.records(name, self.found.layer))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    workspace = Workspace(tmp_path_factory.mktemp("cards"))
    with closing(open_database(workspace.database)) as conn:
        found = make_crosscheck(conn, workspace, every=12)
        chosen = choose_plainly(found)
        result: Result = make_cards(found, chosen)
        yield Made(found, chosen, Rows(result.metrics, result.tables))


def choose_plainly(found: Crosscheck) -> dict[str, Ints]:
    """The best feature of each emotion on all stories."""
    tables = {"auc": plain_aucs(found), "cosine": plain_cosines(found)}
    return {name: np.nanargmax(table, axis=1).astype(np.int64) for name, table in tables.items()}


def plain_aucs(found: Crosscheck) -> Floats:
    """By ranks (Mann and Whitney 1947), ties in the middle."""
    ranks = rankdata(found["sae"].codes.toarray(), axis=0)
    rows = []
    for emotion in range(len(found.emotions)):
        own = found.own == emotion
        n, others = own.sum(), (~own).sum()
        rows.append((ranks[own].sum(axis=0) - n * (n + 1) / 2.0) / (n * others))
    return np.array(rows)


def plain_cosines(found: Crosscheck) -> Floats:
    rows = found["sae"].rows.astype(np.float64)
    cosines: Floats = found.directions @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    return cosines


def test_every_feature_that_is_the_best_for_an_emotion_has_one_card(made: Made) -> None:
    features = [row["feature"] for row in made.table("cards")]
    every = np.concatenate([made.chosen["auc"], made.chosen["cosine"]])
    assert sorted(features) == np.unique(every).tolist()
    for row in made.table("cards"):
        for by in ("auc", "cosine"):
            own = np.flatnonzero(made.chosen[by] == row["feature"])
            assert json.loads(row[f"{by}_for"]) == [made.found.emotions[i] for i in own]


def test_the_features_that_tell_most_come_first(made: Made) -> None:
    cards = [row["feature"] for row in made.table("cards")]
    for by, scores in (("auc", plain_aucs(made.found)), ("cosine", plain_cosines(made.found))):
        best = scores[np.arange(len(scores)), made.chosen[by]]
        assert made.chosen[by][best.argmax()] in cards[:2]


def test_no_more_than_so_many_have_a_card_and_both_ways_of_choosing_their_half() -> None:
    count = 171
    chosen = {"auc": np.arange(count), "cosine": np.arange(count) + count}
    every = np.arange(2 * count)
    rising = np.linspace(0.5, 1.0, count, dtype=np.float32)
    scores = np.tile(rising[:, None], (1, 2 * count))
    order = order_features(chosen, every, scores, scores.astype(np.float64))[:MOST]
    assert sorted(order) == [
        *range(count - MOST // 2, count),
        *range(2 * count - MOST // 2, 2 * count),
    ]
    assert order[:2] == [count - 1, 2 * count - 1]


def test_the_numbers_of_a_card_are_those_of_codes_and_rows(made: Made) -> None:
    found, emotions = made.found, made.found.emotions
    aucs, cosines, codes = plain_aucs(found), plain_cosines(found), found["sae"].codes.toarray()
    for row in made.table("cards"):
        own = codes[:, row["feature"]]
        assert row["stories"] == len(own)
        assert row["share"] == pytest.approx((own > 0.0).mean())
        assert row["mean_code"] == pytest.approx(own.mean(), rel=1e-5)
    for row in made.table("card_emotions"):
        emotion, feature = emotions.index(row["emotion"]), row["feature"]
        assert row["auc"] == pytest.approx(aucs[emotion, feature], abs=1e-6)
        assert row["cosine"] == pytest.approx(cosines[emotion, feature], abs=1e-6)
        mean = codes[found.own == emotion, feature].mean()
        assert row["mean_code"] == pytest.approx(mean, rel=1e-5, abs=1e-9)
        by = [name for name in ("auc", "cosine") if made.chosen[name][emotion] == feature]
        assert row["chosen_by"] == (" and ".join(by) or None)


def test_a_card_shows_the_emotions_it_tells_best_in_order(made: Made) -> None:
    aucs = plain_aucs(made.found)
    for card in made.table("cards"):
        rows = [row for row in made.table("card_emotions") if row["feature"] == card["feature"]]
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        scores = [row["auc"] for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) == pytest.approx(aucs[:, card["feature"]].max(), abs=1e-6)


def test_the_tokens_are_those_that_the_decoder_row_raises_and_lowers_most(made: Made) -> None:
    model: Any = made.found.model.model
    unembedding = model.get_output_embeddings().weight.detach().double().numpy()
    for card in made.table("cards"):
        logits = unembedding @ made.found["sae"].rows[card["feature"]].astype(np.float64)
        order = np.argsort(-logits)
        for name, ids in (("top", order[:10]), ("bottom", order[::-1][:5])):
            spelled = [made.found.model.tokenizer.decode([int(i)]) for i in ids]
            assert json.loads(card[f"{name}_tokens"]) == spelled


def test_the_snippets_of_a_card_are_from_the_stories_with_its_highest_mean_codes(
    made: Made,
) -> None:
    found, codes = made.found, made.found["sae"].codes.toarray()
    ids = found["sae"].pooled.text_ids.tolist()
    query = "SELECT id, emotion, text FROM stories"
    stories = {row[0]: (row[1], row[2]) for row in found.inputs.conn.execute(query)}
    for card in made.table("cards"):
        own = codes[:, card["feature"]]
        rows = [row for row in made.table("card_snippets") if row["feature"] == card["feature"]]
        highest = np.sort(own[own > 0.0])[::-1][:TEXTS]
        shown = sorted((row["mean_code"] for row in rows), reverse=True)
        np.testing.assert_allclose(shown, highest, rtol=1e-6)
        for row in rows:
            emotion, text = stories[row["text_id"]]
            assert row["emotion"] == emotion
            assert row["mean_code"] == pytest.approx(own[ids.index(row["text_id"])], rel=1e-6)
            assert "".join(json.loads(row["tokens"])) in text
            shown = json.loads(row["codes"])
            assert len(shown) <= WINDOW
            assert max(shown) == pytest.approx(row["peak"], abs=1e-4)


def test_a_feature_that_fires_nowhere_has_a_card_without_snippets(made: Made) -> None:
    """As the nearest to a vector may: its row is there, its codes are not."""
    dead = int(made.chosen["cosine"][0])
    codes = made.found["sae"].codes.toarray()
    codes[:, dead] = 0.0
    silenced = replace(made.found["sae"], codes=csr_array(codes))
    banks = {**made.found.dictionaries, "sae": silenced}
    tables = {
        table.name: table
        for table in make_cards(replace(made.found, dictionaries=banks), made.chosen).tables
    }
    share = {row[1]: row[5] for row in tables["cards"].rows}
    assert share[dead] == 0.0
    assert dead not in {row[0] for row in tables["card_snippets"].rows}


def test_a_feature_is_described_where_the_sae_says_and_nowhere_else(made: Made) -> None:
    assert {row["link"] for row in made.table("cards")} == {None}
    known = replace(made.found, identity=replace(made.found.identity, neuronpedia="m/3-res-16k"))
    (table, *_) = make_cards(known, made.chosen).tables
    for row in table.rows:
        assert row[-1] == f"https://www.neuronpedia.org/m/3-res-16k/{row[1]}"


@pytest.mark.parametrize("odd", ['a/b"><script>', "a/b c?d#e", "../x\u202e", "javascript:alert(1)"])
def test_an_odd_name_stays_within_the_link(odd: str) -> None:
    link = str(describe_feature(odd, 7))
    assert link.startswith("https://www.neuronpedia.org/")
    assert not set(link.removeprefix("https:")) & set("\"'<> ?#:\u202e")


def test_a_comparison_has_all_that_its_figures_and_its_page_are_made_of(made: Made) -> None:
    compared = compare_features(made.found, find_best(made.found))
    rows = Rows(compared.metrics, (*compared.tables, *made.rows.tables))
    assert sorted(figures(rows)) == ["aucs", "components", "cosines", "features", "rebuild"]
    (page,) = pages(rows).values()
    assert page.count("<section") == len(made.table("cards"))
    assert page.count("<tr><td>") > len(NUMBERS)
    for told in NUMBERS.values():
        assert plain(told.format(concept="emotion")) in page
