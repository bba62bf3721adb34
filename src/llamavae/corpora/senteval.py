"""The ten probing tasks of SentEval, which test linguistic properties of sentence embeddings.

Conneau et al., "What you can cram into a single vector" (arXiv 1805.01070). A file has one
sentence per line, `part <tab> label <tab> sentence`, with part tr, va or te.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from llamavae.corpora.lines import read_lines
from llamavae.errors import MissingData, UserError, counted, unknown

VARIABLE = "LLAMAVAE_SENTEVAL"
"""The environment variable that names the folder with the files."""

TASKS = {
    "Length": "sentence_length.txt",
    "WordContent": "word_content.txt",
    "Depth": "tree_depth.txt",
    "TopConstituents": "top_constituents.txt",
    "BigramShift": "bigram_shift.txt",
    "Tense": "past_present.txt",
    "SubjNumber": "subj_number.txt",
    "ObjNumber": "obj_number.txt",
    "OddManOut": "odd_man_out.txt",
    "CoordinationInversion": "coordination_inversion.txt",
}
"""Maps tasks to files."""

GROUPS = {"all": tuple(TASKS)}
"""Maps group names to tasks; a group selects those of its tasks whose files are found."""

PARTS = {"tr": "train", "va": "validation", "te": "test"}
"""Maps names of parts in a file to names of splits."""

_GET = (
    "Get the files from https://github.com/facebookresearch/SentEval/tree/main/data/probing and "
    f"pass their folder (--set probes.folder=FOLDER), or set {VARIABLE} to it"
)


@dataclass(frozen=True)
class Part:
    """Labelled sentences.

    Attributes:
        texts: N sentences.
        labels: N labels.
    """

    texts: list[str]
    labels: list[str]


def load_task(
    name: str, folder: str | Path | None = None, limit: int | None = None, seed: int = 0
) -> dict[str, Part]:
    """The parts `train`, `validation` and `test` of a task.

    Args:
        name: One of `TASKS`.
        folder: Folder of its file; default: the environment variable LLAMAVAE_SENTEVAL.
        limit: Maximum number of sentences of each part, chosen at random.
        seed: Seed of that choice.

    Raises:
        MissingData: No such folder or file.
        UserError: Unknown name, or malformed lines, with their numbers.
    """
    if name not in TASKS:
        raise unknown("SentEval task", name, TASKS)
    place = folder or os.environ.get(VARIABLE)
    if not place:
        raise MissingData(f"the probing tasks of SentEval were not found. {_GET}")
    path = Path(place).expanduser() / TASKS[name]
    if not path.is_file():
        raise MissingData(f"no file {path} for the SentEval task {name}. {_GET}")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1; got {limit}")
    parts = {part: Part([], []) for part in PARTS.values()}
    wrong: list[int] = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) < 3 or cells[0] not in PARTS or not cells[1] or not cells[-1].strip():
            wrong.append(number)
            continue
        part = parts[PARTS[cells[0]]]
        part.texts.append(cells[-1].strip())
        part.labels.append(cells[1])
    if wrong:
        some = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise UserError(
            f"{path}: {counted(len(wrong), 'malformed line')}: {some}. Expected part (tr, va or "
            "te), label and sentence, with tabs between them"
        )
    if empty := [name for name, part in parts.items() if not part.texts]:
        raise UserError(f"{path} has no sentence of the part {' and '.join(empty)}")
    return {name: _sample(part, limit, seed) for name, part in parts.items()}


def _sample(part: Part, limit: int | None, seed: int) -> Part:
    """At most `limit` sentences in the order of the file."""
    if limit is None or limit >= len(part.texts):
        return part
    chosen = sorted(random.Random(seed).sample(range(len(part.texts)), limit))
    return Part([part.texts[i] for i in chosen], [part.labels[i] for i in chosen])
