import pytest
from tests.faults import configs

from llamavae.errors import UserError
from llamavae.training.recipe import load_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(9 * ['*' + a])}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_replaced_fields_load_the_same_or_are_refused():
    faults = [row for row in configs.run(60, 1) if row["outcome"] not in ("right", "refused")]
    assert not faults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases .* are not supported"),
        ("[" * 20000, "not valid YAML"),
        ("latent: {dim: 4, dim: 8}", "'dim' is set twice"),
        ("latent:\n  dim: [", "not valid YAML in line"),
        ("1: 2", "expected names of settings; got 1"),
        ("- a", "expected settings by name"),
    ],
)
def test_recipes_that_are_no_plain_yaml(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 500


def test_recipes_in_other_encodings(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes("description: größe".encode("latin-1"))
    with pytest.raises(UserError, match="is not in UTF-8"):
        load_recipe(tmp_path / "recipe.yaml")
