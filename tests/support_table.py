"""Which models are supported?  `--support-table=FILE` writes what the tests of RecBole's zoo found.

Rows of cases that did not run stay as they are in FILE, so that the parts of ZOO_SHARD add up to one table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COLUMNS = ("model", "trainer", "hidden", "per user", "result", "note")
HEAD = """# Which models of RecBole are supported?

Every model file of RecBole 1.2.1, with the settings of RecBole's own model tests and some more, trained for an epoch or
two on a small data set, on one thread. `pytest -m "zoo or variants" --support-table=docs/models.md` wrote it; with
`ZOO_SHARD=1/2` in parts; `pytest -m zoo` runs one case per model. *Passed* means:

- with delta multiplied by 0 a hardened run equals the plain one bit for bit; with a real delta it does not;
- delta moves the selected weights and no other;
- stage 2 ranks all modules and changes the weakest alone;
- the optimizer still holds every weight after a checkpoint is loaded;
- an attack (noise, FGSM) changes the loss, and leaves every bit as it was; so does an attack on each user alone, whose
  level 0 equals RecBole's own evaluation on the same candidates;
- a stage of pretraining is plain unless `rawp_pretraining` asks for more, and hardened then.

*hidden* counts the hidden weights with two or more dimensions, and their share of all parameters. A model that has none
is hardened and attacked by its embeddings: `--rawp_target=embeddings`. *per user* is the way in which users are
attacked one by one: `hooked` is the fastest, then `vmap`, then `loop`; or what is missing. Models of labelled rows have
no candidates unless `eval_args` ranks some.
"""
TABLE: pytest.StashKey[dict[str, dict[str, str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --support-table."""
    parser.addoption("--support-table", metavar="FILE", help="write which models of RecBole are supported (-m zoo)")


@pytest.fixture
def support(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function: model, cells -> note what was found of it."""
    rows = request.config.stash.setdefault(TABLE, {})
    return lambda model, **cells: rows.setdefault(model, {}).update(cells)


def pytest_sessionfinish(session: Any) -> None:
    """Write the table."""
    file, rows = session.config.getoption("--support-table"), session.config.stash.get(TABLE, {})
    if file and rows:
        write(session.config.invocation_params.dir / file, rows)


def write(file: Path, rows: dict[str, dict[str, str]]) -> None:
    """Write `rows`, model -> column -> text, into the table in `file`; the other rows there stay."""
    old = file.read_text(encoding="utf-8").partition(" --- |\n")[2].splitlines() if file.exists() else []
    lines = {line.split(" | ")[0]: line for line in old}
    for model, cells in rows.items():
        values = {"model": model, **cells}
        lines[f"| {model}"] = "| " + " | ".join(values.get(column, "") for column in COLUMNS) + " |"
    body = [lines[key] for key in sorted(lines, key=str.lower)]
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS), *body]
    file.write_text("\n".join([HEAD, counts(body), "", *table, ""]), encoding="utf-8")


def counts(lines: list[str]) -> str:
    """Return the sentence that counts the results of the table's lines, for models and for all of their cases."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    results = {label: result.partition(":")[0] for label, _, _, _, result, _ in cells}
    models = Counter(result for label, result in results.items() if "," not in label)
    cases = Counter(results.values())
    words = [", ".join(f"{count} {result}" for result, count in counter.most_common()) for counter in (models, cases)]
    return f"{sum(models.values())} models: {words[0]}. With their variants {sum(cases.values())} cases: {words[1]}."
