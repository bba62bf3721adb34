from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from llamavae.planning import plan
from llamavae.training.recipe import load_recipe


def test_plan_says_what_fits(run: Any) -> None:
    result = run("plan", "paper", "--device", "a100-80gb", "--sentences", 64000)
    assert result.exit_code == 0, result.stderr
    assert "decoder     262,144,000  6,476,271,616" in result.stdout
    assert "time of 10,000 steps" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("fits: ")


def test_plan_says_what_to_change(run: Any) -> None:
    result = run("plan", "--recipe", "paper", "--device", "rtx-4090")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    start = lines.index("each of these changes is enough:")
    assert lines[start - 1].startswith("does not fit: ")
    assert any("--set optimisation.gradient_checkpointing=true" in line for line in lines[start:])
    together = run("plan", "paper", "--memory", "14GB").stdout
    assert "no single change is enough; these together are:" in together
    assert "use a smaller decoder" in run("plan", "paper", "--memory", "2GB").stdout


def test_memory_has_a_unit(run: Any) -> None:
    result = run("plan", "paper", "--memory", "24")
    assert result.exit_code == 2
    expected = "error: expected memory with its unit, such as 24GB; got '24'\n"
    assert (result.stdout, result.stderr) == ("", expected)


def test_options_of_train(run: Any) -> None:
    result = run("plan", "demo", "--set", "optimisation.batch_size=16", "--json")
    record = json.loads(result.stdout)
    expected = plan(load_recipe("demo", ["optimisation.batch_size=16"]))
    assert record["peak"] == expected.step.peak
    assert record["parameters"]["decoder"]["trained"] == expected.parameters()["decoder"][0]
    assert json.loads(run("plan", "--from", "mini", "--json").stdout)["recipe"] == "fine-tune"
    assert run("plan").exit_code == 2
    both = run("plan", "demo", "--recipe", "demo")
    assert both.exit_code == 2
    assert "expected RECIPE or --recipe, not both" in both.stderr


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from llamavae.cli.app import app; app(['plan', 'paper'], "
        "standalone_mode=False); assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fits on" in done.stdout


def test_the_outputs_on_the_page_are_those_of_the_code(run: Any) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "seven-billion.md"
    blocks = page.read_text(encoding="utf-8").split("```console\n$ llamavae plan ")[1:]
    assert len(blocks) > 5
    for block in blocks:
        command, _, output = block.partition("```")[0].partition("\n")
        assert run("plan", *shlex.split(command)).stdout == output, command
