from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llamavae.corpora import load_corpus, wordnet
from llamavae.errors import UserError

LICENCE = "  1 The first lines of each file start with two spaces.  \n  2 They are no synsets.  \n"

FILES = {
    "noun": [
        "00000101 03 n 02 glim 0 small_lamp 0 001 @ 00000202 n 0000 | a lamp that fits in a hand; "
        '"she lit the glim"; "two glims burned"',
        "00000202 03 n 0a w0 0 w1 0 w2 0 w3 0 w4 0 w5 0 w6 0 w7 0 w8 0 w9 0 000 | "
        'ten words for one thing (as in the phrase "ten; "ten" and ten"); used by nobody',
    ],
    "verb": [
        "00000303 29 v 01 bort 1 001 @ 00000404 v 0000 02 + 02 00 + 08 00 | "
        'walk sideways, "He borted home"--A. Writer; "she borts',
    ],
    "adj": [
        "00000505 00 a 01 plim(p) 0 000 | full of water",
        '00000606 00 s 02 gond(ip) 0 Old_Gond(a) 1 000 | round as in "a round number"; '
        'e.g. apples: "a gond apple" or "gond eyes"',
    ],
    "adv": ['00000707 02 r 01 slowish 0 000 | at low speed"'],
}


@pytest.fixture
def folder(tmp_path):
    for name, lines in FILES.items():
        (tmp_path / f"data.{name}").write_text(LICENCE + "".join(f"{line}  \n" for line in lines))
    return tmp_path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without WordNet."""
    for name in ("LLAMAVAE_WORDNET", "WNSEARCHDIR", "WNHOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wordnet, "_usual_places", lambda: iter([tmp_path / "nowhere"]))


def test_definitions(folder):
    data = load_corpus("wordnet", path=folder)
    assert data.column_names == ["text", "word", "pos", "lexname", "synset", "lemmas"]
    assert data[0] == {
        "text": "a lamp that fits in a hand",
        "word": "glim",
        "pos": "noun",
        "lexname": "noun.Tops",
        "synset": "00000101-n",
        "lemmas": ["glim", "small lamp"],
    }
    assert list(data["text"])[1:] == [
        'ten words for one thing (as in the phrase "ten; "ten" and ten"); used by nobody',
        "walk sideways",
        "full of water",
        'round as in "a round number"; e.g. apples',
        "at low speed",
    ]
    assert list(data["pos"])[2:] == ["verb", "adjective", "adjective", "adverb"]
    assert list(data["lexname"])[2:] == ["verb.body", "adj.all", "adj.all", "adv.all"]
    assert data[1]["lemmas"] == [f"w{i}" for i in range(10)]  # their number is hexadecimal
    assert data[4]["lemmas"] == ["gond", "Old Gond"]  # without the position markers


def test_examples(folder):
    data = load_corpus("wordnet-examples", path=folder)
    assert list(zip(data["word"], data["text"], strict=True)) == [
        ("glim", "she lit the glim"),
        ("glim", "two glims burned"),
        ("bort", "He borted home"),
        ("bort", "she borts"),
        ("gond", "a gond apple"),
        ("gond", "gond eyes"),
    ]


def test_pairs(folder):
    data = load_corpus("wordnet-pairs", path=folder)
    assert len(data) == 2 + 10 + 1 + 1 + 2 + 1
    assert [data[1][c] for c in ("word", "pos", "text")] == [
        "small lamp",
        "noun",
        "a lamp that fits in a hand",
    ]


def test_pairs_have_the_example_with_the_word(folder):
    data = load_corpus("wordnet-pairs", path=folder)
    assert data.column_names == ["text", "word", "pos", "lexname", "synset", "context"]
    found = {word: c for word, c in zip(data["word"], data["context"], strict=True) if c}
    assert found == {"glim": "she lit the glim", "gond": "a gond apple"}


@pytest.mark.parametrize(
    ("lemma", "context"),
    [
        ("bank", "The Bank's doors"),  # case does not matter, nor what follows the word
        ("bankrupt", None),
        ("river bank", "on a river bank."),
        ("sand-bank", "a sand-bank"),
        ("sand", None),  # not a part of a compound
        ("a.b", "not aXb but a.b"),  # its letters are no pattern
    ],
)
def test_context(lemma, context):
    examples = ["a sand-bank", "bankruptcy", "The Bank's doors", "on a river bank."]
    synset = wordnet.Synset("1-n", "noun", "noun.Tops", [lemma], "", [*examples, "not aXb but a.b"])
    assert wordnet._context(synset, lemma) == context


@pytest.mark.parametrize("variable", ["LLAMAVAE_WORDNET", "WNSEARCHDIR", "WNHOME"])
def test_environment(folder, nowhere, monkeypatch, variable):
    monkeypatch.setenv(variable, str(folder))
    assert len(load_corpus("wordnet")) == 6


def test_home_with_a_dict_folder(folder, nowhere, monkeypatch):
    (folder / "home").mkdir()
    (folder / "home" / "dict").mkdir()
    for file in folder.glob("data.*"):
        file.rename(folder / "home" / "dict" / file.name)
    monkeypatch.setenv("WNHOME", str(folder / "home"))
    assert len(load_corpus("wordnet")) == 6


@pytest.mark.parametrize("zipped", [False, True])
def test_nltk_data(folder, monkeypatch, zipped):
    for name in ("LLAMAVAE_WORDNET", "WNSEARCHDIR", "WNHOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NLTK_DATA", str(folder / "nltk"))
    corpora = folder / "nltk" / "corpora"
    corpora.mkdir(parents=True)
    if zipped:
        with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
            for file in folder.glob("data.*"):
                archive.write(file, f"wordnet/{file.name}")
    else:
        (corpora / "wordnet").mkdir()
        for file in folder.glob("data.*"):
            file.rename(corpora / "wordnet" / file.name)
    places = [place for place in wordnet._usual_places() if folder in place.parents]
    monkeypatch.setattr(wordnet, "_usual_places", lambda: iter(places))
    assert len(load_corpus("wordnet")) == 6


def test_missing(nowhere):
    with pytest.raises(UserError, match=r"not installed.*apt install wordnet-base.*nltk"):
        load_corpus("wordnet")


def test_wrong_place(nowhere, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"from path.*data.noun is missing"):
        load_corpus("wordnet", path=tmp_path)
    monkeypatch.setenv("LLAMAVAE_WORDNET", str(tmp_path))
    with pytest.raises(UserError, match="from LLAMAVAE_WORDNET"):
        load_corpus("wordnet")


def test_incomplete(folder):
    (folder / "data.adv").unlink()
    with pytest.raises(UserError, match=r"no data\.adv"):
        load_corpus("wordnet", path=folder)


@pytest.mark.parametrize(
    "line",
    [
        "00000707 02 r 01 slowish 0 000\n",  # no gloss
        "00000707 02 r 09 slowish 0 | nine words are announced\n",
        "00000707 02 x 01 slowish 0 000 | no such part of speech\n",
        "00000707 02 r zz slowish 0 000 | not a number\n",
        "00000707 45 r 01 slowish 0 000 | no such lexicographer file\n",
    ],
)
def test_malformed_line(folder, line):
    (folder / "data.adv").write_text(LICENCE + line)
    with pytest.raises(UserError, match=r"data\.adv:3: not a line of WordNet"):
        load_corpus("wordnet", path=folder)


@pytest.mark.parametrize(
    ("gloss", "definition", "examples"),
    [
        ("plain", "plain", []),
        ("one; two; three", "one; two; three", []),
        ('a; b; "c d"', "a; b", ["c d"]),
        ('a, "b c"', "a", ["b c"]),
        ('a: "b"; "c"', "a", ["b", "c"]),
        ('a;"b"', "a", ["b"]),
        ('a; "b; c"; "d: e"', "a", ["b; c", "d: e"]),
        ('a (say, "b"); "c"', 'a (say, "b")', ["c"]),
        ('a; "b" (or so); remark; "c"', "a", ["b", "c"]),
        ('as in "b"', 'as in "b"', []),
        ('a; "b', "a", ["b"]),
        ('a; ""', "a", []),
        ("", "", []),
    ],
)
def test_split_gloss(gloss, definition, examples):
    assert wordnet._split_gloss(gloss + "  \n") == (definition, examples)


@pytest.mark.skipif(
    not Path("/usr/share/wordnet/data.noun").is_file(), reason="Debian's WordNet is not installed"
)
def test_real_wordnet():
    data = load_corpus("wordnet", path=Path("/usr/share/wordnet"))
    assert len(data) == 117_659
    assert set(data["pos"]) == {"noun", "verb", "adjective", "adverb"}
    assert all(text and text == text.strip() for text in data["text"])


def test_words_come_once_each(folder):
    more = "00000808 02 r 02 slowish 1 plim 0 000 | in a slow way  \n"
    with (folder / "data.adv").open("a") as file:
        file.write(more)
    data = load_corpus("wordnet-words", path=folder)
    words = list(data["text"])
    assert data.column_names == ["text"]
    assert words[:2] == ["glim", "small lamp"]
    assert len(words) == len(set(words)) == 17
