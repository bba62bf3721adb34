from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import tiny

from llamavae.corpora import load_corpus, pieces
from llamavae.data import batches
from llamavae.data.streams import Layout, SentenceStream, stream_layout
from llamavae.data.vector_cache import VectorCache
from llamavae.errors import UserError
from llamavae.files import cache_folder

TEXTS = [
    f"{text} {'again ' * (number % 7)}{number}" for number, text in enumerate(tiny.SENTENCES * 12)
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(pieces, "_BYTES", 300)
    monkeypatch.setattr(batches, "GROUP", 3)


@pytest.fixture(params=["txt", "jsonl", "parquet", "folder"])
def corpus(request, tmp_path):
    path = tmp_path / f"corpus.{request.param}"
    match request.param:
        case "txt":
            path.write_text("\n".join(TEXTS), encoding="utf-8")
        case "jsonl":
            path.write_text("\n".join(json.dumps({"n": 1, "text": text}) for text in TEXTS))
        case "parquet":
            pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=10)
        case _:
            path.mkdir()
            for i in range(2):
                lines = (json.dumps({"text": text}) for text in TEXTS[i::2])
                (path / f"{i}.jsonl").write_text("\n".join(lines))
    return load_corpus(path, streaming=True).select_columns("text")


def read(stream, steps, a=1):
    """Texts of the micro-batches of some steps, and the positions after each."""
    found, positions = [], {}
    for items in itertools.islice(stream, steps * a):
        found.append([item["text"] for item in items])
        positions |= json.loads(items[0]["position"])
    return found, {int(shard): position for shard, position in positions.items()}


def test_a_pass_has_each_sentence(corpus, decoder):
    layout = stream_layout(corpus, batch_size=4)
    seen = Counter()
    for items in itertools.islice(SentenceStream(corpus, decoder, layout, buffer=32), 60):
        seen.update(item["text"] for item in items)
        for item in items:
            assert list(item["ids"]) == decoder.tokenize([item["text"]])[0][0]
    assert set(seen) == set(TEXTS)
    assert max(seen.values()) <= 2 * 3  # 2.5 passes; a few are repeated to fill batches


@pytest.mark.parametrize("tokens", [None, 60])
@pytest.mark.parametrize("done", [1, 5, 31])
def test_resuming_continues_with_the_next_sentence(corpus, decoder, done, tokens):
    def stream(positions):
        layout = stream_layout(corpus, batch_size=4, limited=tokens is not None)
        made = SentenceStream(corpus, decoder, layout, seed=3, buffer=24, tokens=tokens)
        made.load_positions(json_numbers(positions))
        return made

    whole, _ = read(stream({}), 40)
    first, positions = read(stream({}), done)
    rest, _ = read(stream(positions), 40 - done)
    assert first + rest == whole
    assert len(set(map(tuple, whole))) > 30


def json_numbers(positions):
    """Positions as they are after they were saved."""
    return {int(k): v for k, v in json.loads(json.dumps(positions)).items()}


@pytest.mark.parametrize(("processes", "micro"), [(1, 2), (2, 4), (4, 1)])
@pytest.mark.parametrize("group", [5, 50, 500])
def test_batches_are_the_same_on_any_number_of_processes(
    tmp_path, decoder, processes, micro, group
):
    """With as many shards as processes, with fewer, and with one."""
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=group)
    corpus = load_corpus(path, streaming=True).select_columns("text")
    expected, _ = read(SentenceStream(corpus, decoder, stream_layout(corpus, 8), buffer=32), 12)
    a = 8 // (micro * processes)
    per_process = []
    for process in range(processes):
        layout = stream_layout(corpus, 8, micro, processes=processes, process=process)
        found, _ = read(SentenceStream(corpus, decoder, layout, buffer=32), 12, a)
        per_process.append(found)
    steps = [
        [text for i in range(a) for found in per_process for text in found[step * a + i]]
        for step in range(12)
    ]
    assert steps == expected


def test_processes_read_different_row_groups(tmp_path, decoder, monkeypatch):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=5)
    corpus = load_corpus(path, streaming=True)
    read_by = []
    for process in range(2):
        layout = stream_layout(corpus, 8, processes=2, process=process)
        stream = SentenceStream(corpus, decoder, layout, buffer=8)
        read_by.append({t for shard in stream.shards for t in texts_of(stream._part(shard, 0))})
    assert read_by[0] | read_by[1] == set(TEXTS)
    assert not read_by[0] & read_by[1]


def texts_of(data):
    return [row["text"] for row in data]


def test_a_limit_of_tokens(corpus, decoder):
    layout = stream_layout(corpus, batch_size=8, limited=True)
    stream = SentenceStream(corpus, decoder, layout, buffer=48, tokens=60)
    sizes = set()
    for items in itertools.islice(stream, 60):
        width = max(len(item["ids"]) for item in items)
        assert len(items) <= 8
        assert len(items) == 1 or width * len(items) <= 60
        sizes.add(len(items))
    assert len(sizes) > 1


def test_layouts_that_do_not_fit(corpus, decoder):
    with pytest.raises(UserError, match=r"batch_size 8 is not a multiple of corpus.shards 3"):
        Layout(8, 8, 3)
    with pytest.raises(UserError, match=r"Set corpus.shards to 1, or omit it"):
        SentenceStream(corpus, decoder, Layout(8, 8, 2), tokens=60)
    stream = SentenceStream(corpus, decoder, Layout(8, 8, 2))
    with pytest.raises(UserError, match=r"4 shards; now there would be 2. The files of the corpus"):
        stream.load_positions({shard: {} for shard in range(4)})
    limited = SentenceStream(corpus, decoder, Layout(8, 4, 2), tokens=60)
    with pytest.raises(UserError, match=r"would be 2. Set optimisation.micro_batch_size to 2"):
        limited.load_positions({shard: {} for shard in range(4)})


def test_an_empty_stream(tmp_path, decoder):
    (tmp_path / "a.txt").write_text("only one\n")
    corpus = load_corpus(tmp_path / "a.txt", streaming=True)
    with pytest.raises(UserError, match="each of 2 shards; got an empty one for shard 1"):
        next(iter(SentenceStream(corpus, decoder, Layout(2, 2, 2))))


# ------------------------------------------------------------------------------- vectors


def test_vectors_come_from_the_cache_in_later_passes(corpus, decoder, encoder, monkeypatch):
    calls = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: calls.append(len(texts)) or encode(texts))

    def stream():
        cache = VectorCache(encoder)
        return SentenceStream(corpus, decoder, Layout(4, 4, 1), buffer=32, cache=cache)

    for items in itertools.islice(stream(), 80):  # more than three passes
        for item in items:
            expected = encode([item["text"]])[0].numpy()
            np.testing.assert_allclose(item["vector"], expected, atol=1e-5)
    assert sum(calls) == len(TEXTS)
    read(stream(), 80)
    assert sum(calls) == len(TEXTS)


@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_damaged_vectors_are_computed_again(encoder, harm, caplog):
    cache, texts = VectorCache(encoder), TEXTS[:9]
    before = cache.vectors(texts).copy()
    assert not cache.vectors(texts).flags.writeable  # memory-mapped
    (path,) = cache_folder().glob("blocks-*/*/*.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if harm == "flipped" else data[:100])
    np.testing.assert_array_equal(cache.vectors(texts), before)
    assert "damaged: its vectors are computed again" in caplog.text


def test_other_sentences_have_vectors_of_their_own(encoder):
    cache = VectorCache(encoder)
    np.testing.assert_array_equal(cache.vectors(TEXTS[:4])[1:], cache.vectors(TEXTS[1:4]))
    assert len(list(cache_folder().glob("blocks-*/*/*.arrow"))) == 2
