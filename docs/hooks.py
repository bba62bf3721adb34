"""Fills in what the code knows better than a page: `<!-- generated: NAME -->` becomes a table.

The page of results, its plots, the files of its experiments and the notebook are part of the site
as well.

MkDocs calls `on_files` once and `on_page_markdown` for every page (see `hooks:` in mkdocs.yml).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.main import get_command

from llamavae.cli.app import app
from llamavae.corpora import describe_corpora
from llamavae.evaluation.registry import EVALUATORS, SUITES
from llamavae.markdown import markdown_table
from llamavae.pretrained import available, megabytes
from llamavae.training.recipe import describe_settings, load_recipe, recipe_names, recipe_text

MARK = re.compile(r"<!-- generated: ([\w-]+) -->")


RESULTS = Path(__file__).parents[1] / "results"
NOTEBOOK = Path(__file__).parents[1] / "examples" / "small.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with those of the results and the notebook."""
    page = (RESULTS / "README.md").read_text(encoding="utf-8").replace("](../docs/", "](../")
    files.append(File.generated(config, "results/index.md", content=page))
    for kind in ("jsonl", "svg"):
        for path in sorted(RESULTS.glob(f"*.{kind}")):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    files.append(File.generated(config, "examples/small.ipynb", abs_src_path=str(NOTEBOOK)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its marks replaced."""
    return MARK.sub(lambda mark: generate(mark[1]), markdown)


def generate(name: str) -> str:
    """The Markdown that stands for a mark."""
    if name not in GENERATORS:
        raise PluginError(f"no generator {name!r}; there are {', '.join(GENERATORS)}")
    return "\n".join(GENERATORS[name]())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"\n{markdown_table(head, rows)}\n"


def code(text: str) -> str:
    """Text as inline code, if there is any."""
    return f"`{text}`" if text else ""


# ------------------------------------------------------------------------------- generators


def settings() -> Iterator[str]:
    """All settings of a recipe, a table for each section."""
    names = list(dict.fromkeys(map(_section, describe_settings())))
    order = sorted(describe_settings(), key=lambda row: names.index(_section(row)))
    for section, rows in groupby(order, _section):
        yield f"\n## {section}\n"
        yield from table(
            ("setting", "type", "default", "meaning"),
            ((code(key), kind, code(default), text) for key, kind, default, text in rows),
        )


def _section(row: tuple[str, str, str, str]) -> str:
    return row[0].rpartition(".")[0] or "the recipe itself"


def recipes() -> Iterator[str]:
    """The bundled recipes: a list, and the text of each."""
    rows = [(code(name), load_recipe(name).description) for name in recipe_names()]
    yield from table(("recipe", "what it is for"), rows)
    for name in recipe_names():
        yield f"\n## {name}\n\n``` {{.yaml .no-copy}}\n{recipe_text(name).rstrip()}\n```\n"


def corpora() -> Iterator[str]:
    """The named corpora."""
    yield from table(
        ("name", "what it is", "licence of the text"),
        ((code(c["name"]), c["description"], c["licence"]) for c in describe_corpora()),
    )


def evaluators() -> Iterator[str]:
    """Every evaluator with what it needs, its metrics and its settings."""
    for name, cls in EVALUATORS.items():
        suites = ", ".join(code(suite) for suite, chosen in SUITES.items() if name in chosen)
        needs = " and ".join(sorted(cls.needs))
        yield f"\n## {name}\n\nNeeds {needs}. Runs in {suites}.\n"
        head = ("metric", "definition", "unit", "better", "control")
        rows = ((m.name, m.definition, m.unit, m.direction, m.control) for m in cls.metrics)
        yield from table(head, rows)
        yield f"::: {cls.__module__}.{cls.__name__}"
        yield "    options: {heading_level: 3, members: false}\n"


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield from _command(get_command(app), "llamavae")


def _command(command: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    inner = getattr(command, "commands", {})
    yield f"\n## {name}\n\n{_paragraphs(command.help or '')}\n"
    if not inner:
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{name} {usage}\n```"
    options = [p for p in command.params if p.name not in ("install_completion", "show_completion")]
    if options:
        rows = (_option(option) for option in options)
        yield from table(("argument or option", "value", "default", "meaning"), rows)
    for child in inner:
        yield from _command(inner[child], f"{name} {child}")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _option(option: Any) -> tuple[str, str, str, str]:
    argument = option.param_type_name == "argument"
    names = [option.metavar or option.name.upper()] if argument else option.opts
    flag = getattr(option, "is_flag", False)
    default = "" if flag or option.default in (None, ()) else str(option.default)
    meaning = option.help or ""
    if option.envvar:
        meaning += f" Also read from `{option.envvar}`."
    return ", ".join(map(code, names)), "" if flag else _value(option), code(default), meaning


def _value(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    return {"Path": "path", "str": "text", "list": "texts"}.get(kind.__name__, kind.__name__)


def models() -> Iterator[str]:
    """The models that have a name."""
    yield from table(
        ("name", "what it is", "size", "licence", "backbones that it needs"),
        (
            (
                code(m.name),
                m.description,
                megabytes(m.size),
                m.licence,
                ", ".join(code(name) for name in m.needs if name != m.name),
            )
            for m in available()
        ),
    )


GENERATORS: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "recipes": recipes,
    "evaluators": evaluators,
    "corpora": corpora,
    "commands": commands,
    "models": models,
}
