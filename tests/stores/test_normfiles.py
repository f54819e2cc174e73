"""Laws of reading files of ratings. Every word and every number here is made up."""

from pathlib import Path

import pytest

from stores.errors import UsageError
from stores.norms import Norms, load_norms

WARRINER = (
    '"","Word","V.Mean.Sum","V.SD.Sum","V.Rat.Sum","A.Mean.Sum","A.SD.Sum","A.Rat.Sum",'
    '"D.Mean.Sum","V.Mean.M","A.Mean.M"'
)
NRC_1 = "Word\tValence\tArousal\tDominance\n"
NRC_2 = "term\tvalence\tarousal\tdominance\n"


def _load(folder: Path, content: str | bytes, name: str = "ratings.txt") -> Norms:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_norms(path)


def _numbers(norms: Norms) -> dict[str, tuple[float, float]]:
    return {word: (norms.valence[word], norms.arousal[word]) for word in norms.valence}


@pytest.mark.parametrize("name", ["a.txt", "warriner.csv"])
@pytest.mark.parametrize(
    ("content", "source", "terms"),
    [
        (NRC_1 + "glim\t0.25\t0.5\t0.1\ntrolid\t1\t0\t0.2\n", "NRC VAD Lexicon v1", "no redis"),
        (NRC_2 + "glim\t-0.25\t0.5\t0.1\ntro lid\t1\t-1\t0\n", "NRC VAD Lexicon v2", "no redis"),
        (NRC_2 + "glim\t0.25\t0.5\t0.1\n", "NRC VAD Lexicon v2", "saifmohammad.com"),
        ("glim\t0.25\t0.5\t0.1\ntrolid\t1\t0\t0\n", "v1 (Mohammad 2018), told by its scale", "NRC"),
        ("glim\t-0.25\t0.5\t0.1\nfen ow\t1\t0\t0\n", "v2 (Mohammad 2025), told by its sc", "no re"),
        (NRC_1 + "glim\t-0.25\t0.5\t0.1\ntrolid\t1\t-1\t0\n", "v1 (Mohammad 2018), bip", "no red"),
        (WARRINER + '\n"1","glim",2.5,1,9,5.25,1,9,5,2,5\n', "Warriner, Kuperman", "no redis"),
        ("word,valence,arousal\nglim,250,-3\n", "ratings in ", "that of its owner"),
        ("word,valence,arousal,dominance\nglim,7.5,3,1\n", "ratings in ", "that of its owner"),
    ],
)
def test_whose_ratings_they_are_is_told_by_what_the_file_holds(
    tmp_path: Path, name: str, content: str, source: str, terms: str
) -> None:
    norms = _load(tmp_path, content, name)
    assert source in norms.source
    assert terms.replace("NRC", "National Research Council") in norms.licence
    assert "glim" in norms.valence


def test_the_means_over_all_raters_of_warriner_are_read(tmp_path: Path) -> None:
    norms = _load(tmp_path, WARRINER + '\n"1","glim",2.5,1,9,5.25,1,9,6.5,8.5,7.5\n')
    assert _numbers(norms) == {"glim": (2.5, 5.25)}


@pytest.mark.parametrize(
    "content",
    [
        "word,valence,arousal\nglim,0.25,0.5\nfen ow,-1,2\n",
        "WORD,Valence,AROUSAL\nGlim,0.25,0.5\nFen  Ow,-1,2\n",
        "arousal,x,Term,valence\n0.5,.,glim,0.25\n2,.,fen ow,-1\n",
        "word;valence;arousal\nglim;0.25;0.5\nfen ow;-1;2\n",
        "word\tvalence\tarousal\n glim \t0.25\t0.5\nfen ow\t-1\t2",
        '"word","valence","arousal"\n"glim","0.25","0.5"\n"fen ow","-1.0","2e0"\n',
        "\ufeffword,valence,arousal\r\nglim,0.25,0.5\r\nfen ow,-1,2\r\n",
        "\n\nword,valence,arousal\r\rglim,0.25,0.5\r\r\rfen ow,-1,2\r",
        "word,valence,arousal\nglim,0.25,0.5\nfen ow,-1,2\nglim,0.250,0.50\n",
    ],
)
def test_spelling_of_the_file_changes_nothing(tmp_path: Path, content: str) -> None:
    assert _numbers(_load(tmp_path, content)) == {"glim": (0.25, 0.5), "fen ow": (-1.0, 2.0)}


def test_of_words_that_differ_in_capitals_the_one_in_lower_case_counts(tmp_path: Path) -> None:
    for body in ("Glim,1,1\nglim,2,3\n", "glim,2,3\nGlim,1,1\nGLIM,5,5\n"):
        assert _numbers(_load(tmp_path, f"word,valence,arousal\n{body}")) == {"glim": (2.0, 3.0)}


def test_a_word_may_hold_the_separator_in_quotes(tmp_path: Path) -> None:
    norms = _load(tmp_path, 'word,valence,arousal\n"glim, or so",1,2\n"a ""b""",3,4\n')
    assert _numbers(norms) == {"glim, or so": (1.0, 2.0), 'a "b"': (3.0, 4.0)}


MANY = "".join(f"word{i}\t0.5\t0.5\t0.5\n" for i in range(40))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (NRC_1 + MANY + "glim\t1.25\t0.5\t0\n", ["line 42", "valence 1.25 of 'glim'", "0 to 1"]),
        (NRC_1 + MANY + "glim\t-0.25\t0.5\t0\n", ["line 42", "valence -0.25", "v1", "0 to 1"]),
        (MANY + "glim\t0.5\t-0.25\t0\n", ["line 41", "arousal -0.25", "0 to 1"]),
        (NRC_2 + MANY + "glim\t0.5\t-1.5\t0\n", ["line 42", "arousal -1.5", "v2", "-1 to 1"]),
        (WARRINER + "\n1,glim,0.5,1,9,5,1,9,5,2,5\n", ["line 2", "valence 0.5", "1 to 9"]),
        (WARRINER + "\n1,glim,5,1,9,9.5,1,9,5,2,5\n", ["line 2", "arousal 9.5", "1 to 9"]),
        (NRC_1 + MANY + "glim\t7.25\t6\t5\n", ["line 42", "scale of NRC VAD"]),
        ("word,valence,arousal\nglim,high,1\n", ["line 2", "valence 'high' of 'glim'", "number"]),
        ("word,valence,arousal\n\nglim,1,\n", ["line 3", "arousal '' of 'glim'", "number"]),
        ("word,valence,arousal\nglim,nan,1\n", ["line 2", "'nan'", "number"]),
        ("word,valence,arousal\nglim,1,1e999\n", ["line 2", "'1e999'", "number"]),
        ("word;valence;arousal\nglim;0,5;1\n", ["line 2", "'0,5'", "number"]),
        ("word,valence,arousal\nglim,1,2\nfen,1,1\nglim,1,3\n", ["'glim'", "lines 2 and 4"]),
        ("word,valence,arousal\nGlim,1,2\nGLIM,1,3\n", ["'glim'", "lines 2 and 3"]),
        ("word,valence,arousal\n ,1,2\n", ["line 2", "no word"]),
        ("word,valence,arousal\nglim,1\n", ["line 2", "2 columns", "has 3"]),
        ("word,valence,arousal\nglim, or so,1,2\n", ["line 2", "4 columns", "has 3"]),
        ('word,valence,arousal\n"glim,1,2\nfen,1,1\n', ["line 2", "mend"]),
        ("word,valence\nglim,1\n", ["no columns arousal", "(word, valence)"]),
        ("emotion,valence,arousal\nglim,1,2\n", ["no columns word or term"]),
        ("word,term,valence,arousal\nglim,a,1,2\n", ["2 columns word or term"]),
        ("word,v.mean.sum,arousal\nglim,5,5\n", ["no columns a.mean.sum"]),
        ("glim,1,2\n", ["no columns word", "glim, 1, 2"]),
        ("word,valence,arousal\n", ["no ratings"]),
        ("", ["is empty"]),
        (" \n\r\n", ["is empty"]),
        ("word,valence,arousal\nfen,1,1\nglimé,1,2\n".encode("latin-1"), ["line 3", "UTF-8"]),
        ("word,valence,arousal\nglim,1,2\n".encode("utf-16"), ["line 1", "UTF-8"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_the_place(
    tmp_path: Path, content: str | bytes, told: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, content)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert str(tmp_path / "ratings.txt") in message
    assert [part for part in told if part not in message] == []


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        load_norms(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere\.csv cannot be read \(No such file"):
        load_norms(tmp_path / "nowhere.csv")
