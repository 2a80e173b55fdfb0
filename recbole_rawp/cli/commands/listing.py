"""`recbole-rawp list WHAT`: prints the models, defenses, suites, threats or options that there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp.cli.command import Command
from recbole_rawp.errors import InputError, suggestion


def models() -> Iterator[tuple[str, str]]:
    """Yield RecBole's models and ours, each with what stands in its way."""
    from recbole_rawp.host.models.recboles import NEEDS, NO_GRADIENT, names

    for name in names():
        reason = NO_GRADIENT.get(name)
        needs = f"needs {NEEDS[name][0]}: {NEEDS[name][1]}" if name in NEEDS else ""
        yield name, f"not trained by gradient descent ({reason})" if reason else needs


def files(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the YAML files of a folder of ours, each with the first sentence of its comment."""
    from recbole_rawp.config import shipped

    for name in shipped.names(folder):
        yield name, first_sentence(shipped.properties() / folder / f"{name}.yaml")


def first_sentence(file: Path) -> str:
    """Return the first sentence of the comment on top of a file."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).split(". ")[0].rstrip(".") + "."


def threats() -> Iterator[tuple[str, str]]:
    """Yield the methods that a suite, or --attack=[...], can name."""
    import recbole_rawp.threats  # noqa: F401  # which registers them
    from recbole_rawp.threats.threat import KINDS, VARIANTS

    for name, kind in KINDS.items():
        if name.endswith("_worst"):  # which comes with the draws of another
            continue
        yield name, f"{kind.__name__}: {VARIANTS[name].title}" + "; a control" * VARIANTS[name].control


def options() -> Iterator[tuple[str, str]]:
    """Yield our options, each with its default, values and meaning."""
    from recbole_rawp.config.reference import literal
    from recbole_rawp.config.schema import OPTIONS

    for name, option in OPTIONS.items():
        yield f"{name}: {literal(option.default)}", f"({option.expected}) {option.meaning}"


WHAT = {
    "models": models,
    "defenses": lambda: files("defense"),
    "suites": lambda: files("attack"),
    "threats": threats,
    "options": options,
}


def run(given: dict[str, Any], what: str, *, argv: Sequence[str]) -> int:
    """Print a line for each."""
    if what not in WHAT:
        raise InputError(f"list: there is no list of '{what}'.{suggestion(what, WHAT)} Known: {', '.join(WHAT)}.")
    if given:
        raise InputError(f"--{next(iter(given))}: list takes no option. Leave it out.")
    rows = list(WHAT[what]())
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())
    return 0


COMMAND = Command(
    run,
    help="prints what there is: models, defenses, suites, threats or options",
    examples=("list models", "list defenses", "list options"),
    words=1,
    metavar="WHAT",
    takes="one of " + ", ".join(WHAT),
    word="defenses",
    choices=tuple(WHAT),
    general=(),
    sections=(),
)
