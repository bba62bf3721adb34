"""The LSTM backbones against equations written out here, and as parts of a whole VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import AutoModel, AutoModelForCausalLM

from llamavae import LlaMaVAE
from llamavae.errors import UserError
from llamavae.modeling import LSTMConfig, LSTMDecoder, LSTMEncoder
from llamavae.modeling.tokenizing import unknown_bytes
from llamavae.training.recipe import LSTMBackbone
from llamavae.training.scratch import make_backbones

TEXTS = tiny.SENTENCES[:4]
SMALL = LSTMBackbone(embedding_size=12, hidden_size=24, dropout=0.4, min_count=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with both backbones, which know the words of `TEXTS`."""
    folder = tmp_path_factory.mktemp("lstm")
    make_backbones(SMALL, SMALL, TEXTS, 0, folder)
    return folder


def build(folder: Path, **settings: Any) -> LlaMaVAE:
    chosen = {"latent_dim": 8, "injection": "add", "injection_hidden": 0, "max_tokens": 16}
    return LlaMaVAE.from_backbones(
        folder / "encoder",
        folder / "decoder",
        encoder_pooling="last",
        encoder_training="full",
        decoder_training="full",
        embed_backbones=True,
        **chosen | settings,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> LlaMaVAE:
    torch.manual_seed(0)
    return build(folder)


def steps_of(cell: nn.LSTM, inputs: Tensor) -> Tensor:
    """Outputs (T, H) of one LSTM layer over inputs (T, E), gate by gate."""
    weights = dict(cell.named_parameters())
    h = c = torch.zeros(cell.hidden_size)
    outputs = []
    for x in inputs:
        gates = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
        gates = gates + weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


@torch.no_grad()
def test_nll_is_that_of_an_lstm_that_reads_z_at_every_token(model: LlaMaVAE) -> None:
    ids, mask = model.decoder.pad(model.decoder.tokenize(TEXTS)[0])
    z = torch.randn(len(ids), 8)
    lm = model.decoder.lm
    assert isinstance(lm, LSTMDecoder)
    linear = next(m for m in model.injection.modules() if isinstance(m, nn.Linear))
    expected = []
    for row, code in zip([r[m == 1] for r, m in zip(ids, mask, strict=True)], z, strict=True):
        inputs = lm.model.embeddings.weight[row[:-1]] + linear(code)
        logits = lm.lm_head(steps_of(lm.model.lstm, inputs))
        expected.append(-logits.log_softmax(-1)[range(len(row) - 1), row[1:]].sum())
    found = model.decoder.nll(ids, mask, model.injection(z), per_sentence=True)
    torch.testing.assert_close(found, torch.stack(expected))


@torch.no_grad()
def test_the_encoder_ends_in_both_directions_at_the_text(model: LlaMaVAE) -> None:
    assert model.encoder is not None
    lstm = model.encoder.model
    assert isinstance(lstm, LSTMEncoder)
    features = model.encoder.tokenize(TEXTS)  # of different lengths, so with padding
    both = nn.LSTM(12, 24, batch_first=True, bidirectional=True)
    weights = dict(lstm.rightwards.named_parameters())
    weights |= {f"{n}_reverse": p for n, p in lstm.leftwards.named_parameters()}
    both.load_state_dict(weights)
    lengths = features["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    embedded = lstm.embeddings(features["input_ids"])
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    _, (final, _) = both(packed)
    torch.testing.assert_close(model.encoder(features), torch.cat([*final], dim=-1))


@torch.no_grad()
def test_generation_continues_from_the_state(model: LlaMaVAE) -> None:
    z = torch.randn(3, 8)
    steering = model.injection(z)
    ids = torch.full((3, 1), model.decoder.tokens.bos)
    for _ in range(6):
        more = torch.cat([ids, ids[:, :1]], dim=1)  # the last one is only a target
        best = model.decoder.log_probabilities(more, steering)[:, -1:].argmax(-1)
        ids = torch.cat([ids, best], dim=1)
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}
    eos = model.decoder.tokens.eos
    rows = [row[: row.index(eos)] if eos in row else row for row in ids[:, 1:].tolist()]
    generated = model.generate(z, max_new_tokens=6).tolist()
    assert [row[: row.index(eos)] if eos in row else row for row in generated] == rows
    beams = model.generate(z, num_beams=3, num_return_sequences=2, **options)
    assert beams.shape == (6, 6)
    again = torch.cat([model.generate(one, num_beams=3, **options) for one in z[:, None]])
    torch.testing.assert_close(beams[::2], again)  # the beams of a code are its own


def test_dropout_spares_z(model: LlaMaVAE) -> None:
    lm = model.decoder.lm
    assert isinstance(lm, LSTMDecoder)
    model.train()
    try:
        dropped = lm.get_input_embeddings()(torch.arange(8)[:, None].expand(8, 50))
        share = (dropped == 0).float().mean().item()
        assert share == pytest.approx(0.4, abs=0.05)
        assert model.encoder is not None
        assert not model.encoder.model.training  # no noise in z that the KL ignores
    finally:
        model.eval()


def test_saved_and_loaded(model: LlaMaVAE, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = LlaMaVAE.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(loaded.encode(TEXTS).mean, model.encode(TEXTS).mean)
    assert loaded.reconstruct(TEXTS) == model.reconstruct(TEXTS)
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    encoder = AutoModel.from_pretrained(tmp_path / "model" / "encoder")
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path / "model" / "decoder")
    assert (type(encoder), type(decoder)) == (LSTMEncoder, LSTMDecoder)


def test_it_learns_a_few_sentences_by_heart(folder: Path) -> None:
    torch.manual_seed(0)
    model = build(folder, latent_dim=16)
    ids, mask = model.decoder.pad(model.decoder.tokenize(TEXTS)[0])
    assert model.encoder is not None
    features, noise = model.encoder.tokenize(TEXTS), torch.zeros(len(TEXTS), 16)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 0.01)
    for step in range(400):
        if step % 40 == 39 and model.eval().reconstruct(TEXTS) == TEXTS:
            break
        model.train()
        model.decoder.lm.eval()  # without dropout
        optimizer.zero_grad()
        loss = model(ids, mask, features, noise=noise, beta=0.0).loss
        loss.backward()
        optimizer.step()
    assert model.eval().reconstruct(TEXTS) == TEXTS
    assert model.decode(model.encode(TEXTS).mean.flip(0)) == TEXTS[::-1]


def test_refining_lowers_the_nll(model: LlaMaVAE) -> None:
    def nll(z: Tensor) -> float:
        ids, mask = model.decoder.pad(model.decoder.tokenize(TEXTS)[0])
        with torch.no_grad():
            return model.decoder.nll(ids, mask, model.injection(z)).item()

    assert nll(model.refine(TEXTS, 5).mean) < nll(model.encode(TEXTS).mean)


def test_unknown_words_cost_their_bytes(model: LlaMaVAE) -> None:
    texts = ["A dog", "a zebra is a dog", "ein Igel über"]
    assert unknown_bytes(model.decoder.tokenizer, texts) == [0, 6, 4 + 5 + 6]
    assert unknown_bytes(tiny.tokenizer(), texts) == [0, 0, 0]  # of bytes
    assert unknown_bytes(model.decoder.tokenizer, []) == []


def test_memory_needs_attention(folder: Path) -> None:
    with pytest.raises(UserError, match="memory"):
        build(folder, injection="memory")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"dropout": 1.5}, "dropout must be at least 0 and at most 1"),
    ],
)
def test_impossible_sizes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LSTMConfig(**values)


def test_two_directions_share_the_size() -> None:
    with pytest.raises(UserError, match="even hidden_size"):
        LSTMEncoder(LSTMConfig(vocab_size=9, embedding_size=4, hidden_size=5))
