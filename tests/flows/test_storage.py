from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.flows.cases import both_forms, contexts, every_flow, random_flow

from llamavae.errors import UserError
from llamavae.flows import build_flow, load_flow, save_flow


@every_flow
@both_forms
@pytest.mark.parametrize(("features", "context"), [(1, 0), (3, 2), (3, 3), (3, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_loaded_flow_is_the_saved_one_to_the_bit(tmp_path, name, form, features, context, dtype):
    flow = random_flow(name, features, context, form=form).to(dtype)
    save_flow(flow, tmp_path / "new" / "flow.safetensors")
    again = load_flow(tmp_path / "new" / "flow.safetensors")
    x, c = torch.randn(5, features), contexts(5, context)
    assert torch.equal(again(c).log_prob(x), flow(c).log_prob(x))
    assert again(c).log_prob(x).dtype == dtype
    assert again.settings == flow.settings
    assert not again.training


def test_a_flow_is_weights_and_json(tmp_path):
    path = str(tmp_path / "flow.safetensors")
    flow = random_flow("glow", 2, 3)
    save_flow(flow, path)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["flow"]) == flow.settings
    assert set(load_file(path)) == set(flow.state_dict())


def test_no_file(tmp_path):
    for path in (tmp_path / "flow.safetensors", tmp_path):
        with pytest.raises(UserError, match="the file of the flow does not exist"):
            load_flow(path)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "flow.safetensors"
    save_flow(random_flow("glow", 2, 3), path)
    return path


def rewrite(path, change, **settings):
    with safe_open(path, "pt") as file:
        kept = {**json.loads(file.metadata()["flow"]), **settings}
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"flow": json.dumps(kept)})


def test_damaged_files(saved):
    whole = saved.read_bytes()
    for damaged in (b"", b"text", whole[:4], whole[: len(whole) // 2], whole[:-1]):
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match=r"flow.safetensors is damaged or not a flow"):
            load_flow(saved)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"flow": "no JSON"}, {"flow": "[1]"}, {"flow": "{}"}, {"flow": "3"}]
)
def test_files_of_something_else(saved, metadata):
    save_file(load_file(saved), saved, metadata)
    with pytest.raises(UserError, match="damaged or not a flow of llamavae"):
        load_flow(saved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "glw"}, "not a flow of this version of llamavae: unknown flow 'glw'"),
        ({"features": 3}, "damaged or not a flow"),
        ({"blocks": 1}, "damaged or not a flow"),
        ({"unheard_of": 1}, "unknown option of glow 'unheard_of'"),
    ],
)
def test_settings_that_do_not_fit(saved, settings, message):
    rewrite(saved, lambda tensors: None, **settings)
    with pytest.raises(UserError, match=message):
        load_flow(saved)


def test_missing_weights(saved):
    rewrite(saved, lambda tensors: tensors.pop("affine.shift"))
    with pytest.raises(UserError, match=r"damaged.*affine\.shift"):
        load_flow(saved)
    rewrite(saved, lambda tensors: tensors.pop("affine.weight"))
    with pytest.raises(UserError, match=r"damaged.*affine\.weight"):
        load_flow(saved)


@torch.no_grad()
def test_half_a_file_is_nearly_the_same_flow(tmp_path):
    flow = random_flow("glow", 3, 4).float()
    for name, half in (("whole", False), ("half", True)):
        save_flow(flow, tmp_path / name, half)
    assert load_file(tmp_path / "half")["affine.weight"].dtype == torch.float16
    again = load_flow(tmp_path / "half")
    assert again.affine.weight.dtype == torch.float32
    x, c = torch.randn(5, 3), torch.randn(5, 4)
    torch.testing.assert_close(again(c).log_prob(x), flow(c).log_prob(x), atol=0.1, rtol=0.02)
    p = again(c)
    torch.testing.assert_close(p.transform.inv(p.transform(x)), x, atol=1e-3, rtol=1e-3)


def test_weights_that_float16_cannot_hold(tmp_path):
    flow = random_flow("glow", 2, 3)
    flow.affine.weight.data.fill_(1e6)
    with pytest.raises(UserError, match=r"too large for float16.*affine\.weight"):
        save_flow(flow, tmp_path / "flow.safetensors", half=True)
    assert not (tmp_path / "flow.safetensors").exists()


@torch.no_grad()
def test_scales_of_conditions_that_float16_cannot_hold_stay_as_they_are(tmp_path):
    c = torch.randn(200, 4) * 1e-9
    flow = build_flow("glow", features=2, context=4, blocks=2, hidden=(8,))
    flow.initialise(torch.randn(200, 2), c)
    save_flow(flow, tmp_path / "half", half=True)
    again = load_flow(tmp_path / "half")
    assert torch.equal(again.context_scale, flow.context_scale)
    assert again(c).log_prob(torch.randn(200, 2)).isfinite().all()
