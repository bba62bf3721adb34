"""The LangVAE baseline without LangVAE: arguments, budget and files."""

import json
import random
from itertools import pairwise

import pytest
from results import langvae_baseline as baseline

from llamavae.evaluation import read_predictions


class Clock:
    """Processor seconds that advance by one per reading."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def use_up(meter):
    """Train until the budget is spent."""
    try:
        for step in range(10_000):
            meter.step(float(-step))
    except baseline.BudgetSpent:
        return
    pytest.fail("the budget did not end the training")


class Fake:
    """Trains for as many steps as the budget allows, and answers with the line itself."""

    def __init__(self, given):
        self.given = given
        self.saved = 0

    def save(self):
        self.saved += 1

    def train(self, lines, held_out, meter):
        assert not set(lines) & set(held_out)
        use_up(meter)
        return {"epochs": len(meter.losses) / len(lines)}

    def held_out_loss(self, lines):
        return {"lines": float(len(lines))}

    def reconstruct(self, lines):
        return [f"the {line}" for line in lines]


@pytest.fixture
def arguments(tmp_path):
    for name, count in (("train", 20), ("test", 7)):
        lines = "".join(f"{name} é {i}\n" for i in range(count))
        (tmp_path / f"{name}.txt").write_text(lines, encoding="utf-8")
    files = {"train": "train.txt", "test": "test.txt", "output": "run"}
    paths = [part for name, file in files.items() for part in (f"--{name}", str(tmp_path / file))]
    return [*paths, "--encoder", "minilm", "--decoder", "smollm2", "--held-out", "5"]


def test_arguments(arguments):
    given = baseline.parse([*arguments, "--minutes", "4", "--learning-rate", "3e-4"])
    assert (given.minutes, given.learning_rate, given.latent, given.seed) == (4.0, 3e-4, 128, 0)
    assert given.train.name == "train.txt"
    assert given.limit is None


def test_the_paths_are_required(capsys):
    with pytest.raises(SystemExit):
        baseline.parse([])
    message = capsys.readouterr().err
    assert all(f"--{name}" in message for name in ("train", "test", "encoder", "decoder", "output"))


def test_files(arguments, tmp_path):
    baseline.run(baseline.parse([*arguments, "--minutes", "1"]), Fake, Clock())
    found = read_predictions(tmp_path / "run" / "predictions.jsonl")
    assert (found.system, found.task) == ("LangVAE", "reconstruction")
    assert (found.benchmark, found.split) == ("worldtree", "test")
    assert [item.id for item in found.items] == [str(i) for i in range(7)]
    assert found.items[6].references == ("test é 6",)
    assert found.items[6].prediction == "the test é 6"
    assert found.items[6].control == "the test é 0"

    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["minutes"] == 1
    assert record["settings"]["encoder"] == "minilm"
    assert {"langvae", "pythae", "torch", "transformers"} <= set(record["versions"])
    assert set(record["processor_seconds"]) == {"loading", "training", "decoding"}
    assert record["peak_memory_bytes"] > 0
    assert record["held_out"] == {"lines": 5}
    training = record["training"]
    assert training["steps"] == len(training["losses"])
    assert training["epochs"] == training["steps"] / 15


def test_the_budget_ends_the_training():
    meter = baseline.Meter(60.0, clock=Clock())
    use_up(meter)
    seconds = [time for time, _ in meter.losses]
    assert seconds == sorted(seconds)
    assert seconds[-2] < 60 <= seconds[-1] + 2


def test_checkpoints_are_saved_during_the_training():
    saved = []
    meter = baseline.Meter(1000.0, 100.0, lambda: saved.append(meter.spent), Clock())
    use_up(meter)
    assert len(saved) in (8, 9)
    assert all(later - earlier >= 100 for earlier, later in pairwise(saved))


def test_a_resumed_training_uses_the_rest_of_the_budget(arguments, tmp_path):
    baseline.run(baseline.parse([*arguments, "--minutes", "1"]), Fake, Clock())
    first = json.loads((tmp_path / "run" / "run.json").read_text())["training"]["losses"]
    more = [*arguments, "--minutes", "2", "--checkpoint", str(tmp_path / "run" / "checkpoint")]
    second = baseline.run(baseline.parse(more), Fake, Clock())["training"]["losses"]
    assert [list(each) for each in second[: len(first)]] == first
    seconds = [time for time, _ in second]
    assert seconds == sorted(seconds)
    assert seconds[-2] < 120 <= seconds[-1] + 2


def test_a_limit_keeps_the_numbers_of_the_lines(arguments, tmp_path):
    baseline.run(baseline.parse([*arguments, "--minutes", "0", "--limit", "3"]), Fake, Clock())
    items = read_predictions(tmp_path / "run" / "predictions.jsonl").items
    assert len(items) == 3
    assert all(item.references == (f"test é {item.id}",) for item in items)
    assert [item.id for item in items] == [str(i) for i in baseline.chosen_lines(7, 3, 0)]


def test_a_sample_is_seeded():
    assert baseline.chosen_lines(100, 10, 0) == baseline.chosen_lines(100, 10, 0)
    assert baseline.chosen_lines(100, 10, 0) != baseline.chosen_lines(100, 10, 1)
    assert baseline.chosen_lines(4, 10, 0) == [0, 1, 2, 3]


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_batches_have_similar_lengths(batch):
    lines = ["w" * length for length in range(1, 31)]
    size = len(lines) // batch * batch
    ordered = baseline.similar_lengths(lines, batch, 3, random.Random(0))
    assert len(ordered) == 3 * size
    assert all(len(set(ordered[i : i + size])) == size for i in (0, size, 2 * size))
    for start in range(0, len(ordered), batch):
        lengths = [len(line) for line in ordered[start : start + batch]]
        assert max(lengths) - min(lengths) == batch - 1


def test_a_decoder_is_written_for_older_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "new"
    folder.mkdir()
    config = {"dtype": "float32", "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")

    old = baseline.convert_decoder(folder, tmp_path / "old", "bfloat16")
    written = json.loads((old / "config.json").read_text())
    assert written == {"rope_theta": 1e5, "torch_dtype": "bfloat16"}
    assert "PreTrainedTokenizerFast" in (old / "tokenizer_config.json").read_text()
    assert load_file(old / "model.safetensors")["weight"].dtype == torch.bfloat16
