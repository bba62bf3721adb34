"""The documentation, held to the code: its Python runs, its recipes, commands and names exist.

- A `python` block runs in the order of its page, on tiny models; `<!-- not run: why -->` above it
  makes it only compile.
- A `text` block with the title "Output" is what the block before it prints, white space aside.
- A `yaml` block is a recipe, or a part of one.
- `llamavae ...` in a `console` block or in a line of text is a command with options that exist.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests import tiny
from typer.main import get_command

from llamavae.cli.app import app
from llamavae.corpora.registry import CORPORA
from llamavae.flows.architectures import ARCHITECTURES
from llamavae.training.recipe import describe_settings, load_recipe, parse_recipe, recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n)?"
    r"^(?P<indent> *)```(?P<head>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language with what follows, its text, and where it starts."""

    head: str
    body: str
    where: str
    skip: bool


def blocks(page: Path, language: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        head = match["head"].strip()
        if head.split(" ")[0] == language:
            line = text[: match.start("head")].count("\n") + 1
            where = f"{page.relative_to(ROOT)}:{line}"
            yield Block(head, dedent(match["body"]), where, bool(match["skip"]))


def inline(page: Path) -> Iterator[str]:
    """Everything in single back quotes, outside of blocks."""
    yield from INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))


def with_blocks(*languages: str) -> pytest.MarkDecorator:
    pages = [p for p in PAGES if any(next(blocks(p, name), None) for name in languages)]
    return pytest.mark.parametrize("page", pages, ids=lambda p: str(p.relative_to(ROOT)))


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


# ------------------------------------------------------------------------------- Python

_NOUN = "0000010{0} 06 n 01 glim{0} 0 000 | a lamp that fits in hand number {0}  \n"


@functools.cache
def small_vae() -> Path:
    """A folder with a saved VAE, made once."""
    folder = Path(tiny._ROOT.name, "docs-vae")
    tiny.vae().save_pretrained(folder)
    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder in which every name that the pages use is a tiny model or file."""
    monkeypatch.chdir(tmp_path)
    for run in ("factors", "wordnet-cpu", "wordnet-minilm", "stories260k"):
        Path("runs", run).mkdir(parents=True)
        Path("runs", run, "model").symlink_to(small_vae())
    for name, folder in (
        ("small", small_vae()),
        ("sentence-transformers/all-MiniLM-L6-v2", tiny.encoder()),
        ("HuggingFaceTB/SmolLM2-135M", tiny.decoder()),
        ("models/stories260K", tiny.decoder()),
        ("all-minilm-l6-v2", tiny.encoder()),
        ("smollm2-135m-instruct", tiny.decoder()),
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(folder)
    Path("sentences.txt").write_text("\n".join(tiny.SENTENCES), encoding="utf-8")
    pq.write_table(pa.table({"mean": [[0.0] * tiny.LATENT]}), "points-of-another.parquet")
    rows = ["id,review", *(f"{i},{text}" for i, text in enumerate(tiny.SENTENCES))]
    Path("reviews.csv").write_text("\n".join(rows), encoding="utf-8")
    for name in ("noun", "verb", "adj", "adv"):
        lines = [_NOUN.format(i) for i in range(9)] if name == "noun" else []
        Path(f"data.{name}").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setenv("LLAMAVAE_WORDNET", str(tmp_path))
    with mock.patch.dict(CORPORA), mock.patch.dict(ARCHITECTURES):  # a page may add its own
        yield tmp_path


@with_blocks("python")
def test_python_blocks_run(page, workplace):
    names: dict[str, object] = {}
    printed = ""
    found = [*blocks(page, "python"), *blocks(page, "text")]
    for block in sorted(found, key=lambda b: int(b.where.rpartition(":")[2])):
        if block.head.startswith("text"):
            if 'title="Output"' in block.head:
                assert printed.split() == block.body.split(), block.where
            continue
        code = compile(block.body, block.where, "exec")
        output = io.StringIO()
        if not block.skip:
            with contextlib.redirect_stdout(output), warnings.catch_warnings():
                exec(code, names)
        printed = output.getvalue()


# ------------------------------------------------------------------------------- pictures


def test_pictures_are_those_that_the_script_draws():
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    for name, draw in pictures["PICTURES"].items():
        found = (ROOT / "docs" / "assets" / name).read_text(encoding="utf-8")
        assert found == draw(), f"{name} is out of date: run python docs/pictures.py"


def test_every_package_has_its_place_in_the_picture_and_a_word_about_it():
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    drawn = {name for row in pictures["layers"]() for name in row}
    source = ROOT / "src" / "llamavae"
    packages = {p.parent.name for p in source.glob("*/__init__.py")} - {"recipes"}
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    assert packages <= drawn
    assert packages <= pictures["ABOUT"].keys()
    assert packages <= set(re.findall(r"\*\*\[(\w+)\]", page))


# ------------------------------------------------------------------------------- recipes

SECTIONS = {key.split(".")[0] for key, *_ in describe_settings()}
SETTINGS = {key for key, *_ in describe_settings()}


def complete(values: dict) -> dict:
    """A part of a recipe, with the things without which there is none."""
    for side in ("encoder", "decoder"):
        section = values.setdefault(side, {})
        if not {"model", "scratch", "vectors"} & set(section):
            section["model"] = "a-model"
    length = values.setdefault("optimisation", {})
    if not {"epochs", "steps"} & set(length):
        length["epochs"] = 1
    return values


@with_blocks("yaml")
def test_yaml_blocks_are_recipes(page):
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block.body)
        assert set(values) <= SECTIONS, block.where
        recipe = parse_recipe(complete(values))
        assert recipe, block.where


@every_page
def test_settings_that_are_named_exist(page):
    for text in inline(page):
        setting = re.fullmatch(r"(?:--set )?([a-z_]+(?:\.[a-z_]+)+)(?:(?:=|: ?)(.+))?", text)
        if not setting or setting[1].split(".")[0] not in SECTIONS - {"name", "description"}:
            continue
        key, value = setting.groups()
        known = SETTINGS | {s.rpartition(".")[0] for s in SETTINGS}
        assert key in known, f"{page.name}: there is no setting {key}"
        if value:
            field = parse_recipe(complete({})).model_dump()
            section, _, name = key.partition(".")
            pair = {"kl_rule": "free_bits", "kl_threshold": 0.1} if name.startswith("kl_") else {}
            check = field[section] | pair | {name: yaml.safe_load(value)}
            parse_recipe({**field, section: check})


# ------------------------------------------------------------------------------- commands


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Arguments of each call of `llamavae` on a page, and where it stands."""
    for block in blocks(page, "console"):
        for line in block.body.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield from _call(shlex.split(line[2:], comments=True), block.where)
    for text in inline(page):
        if text.startswith(("llamavae ", "torchrun ", "make ")) and "..." not in text:
            yield from _call(shlex.split(text), page.name)


def _call(words: list[str], where: str) -> Iterator[tuple[str, list[str]]]:
    if words[0].endswith("llamavae"):
        yield where, words[1:]
    elif ("-m", "llamavae") in pairwise(words):  # by a launcher such as torchrun
        yield where, words[words.index("llamavae") + 1 :]
    elif words[0] == "make":
        for target in words[1:]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), where


@every_page
def test_commands_exist(page):
    for where, words in commands(page):
        command: Any = get_command(app)
        while getattr(command, "commands", None) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{where}: there is no llamavae {words[0]}"
            command, words = command.commands[words[0]], words[1:]
        if {"--help", "--help-all"} & set(words) or (not words and not where.count(":")):
            continue  # a command that is only named in a line of text
        try:
            values = command.make_context(where, list(words)).params
        except Exception as error:
            raise AssertionError(f"{where}: llamavae {shlex.join(words)}: {error}") from error
        if "overrides" in values:
            _check_recipe(values, where)


def _check_recipe(values: dict, where: str) -> None:
    name = values.get("recipe") or "demo"
    if name == "FILE" or name.endswith(".yaml"):  # one of the reader's own
        name = "demo"
    assert name in recipe_names(), f"{where}: there is no recipe {name}"
    load_recipe(name, values["overrides"])


@every_page
def test_files_that_are_named_exist(page):
    for text in inline(page):
        if re.fullmatch(r"(?:src|tests|docs|benchmarks)/[\w./-]+", text):
            assert (ROOT / text).exists(), f"{page.name}: there is no {text}"


def test_every_environment_variable_is_in_the_faq():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    read = re.findall(r"\bLLAMAVAE_[A-Z_]+|\bWN[A-Z]+(?=\")|NLTK_DATA", source)
    faq = (ROOT / "docs" / "explanation" / "faq.md").read_text(encoding="utf-8")
    assert {"LLAMAVAE_SENTEVAL", "WNHOME", "NLTK_DATA"} <= set(read)
    assert set(read) <= set(INLINE.findall(faq))


def test_the_tests_that_the_security_page_names_exist() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert not [name for name in named if f"def {name}(" not in source]
