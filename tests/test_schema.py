"""Do checks, reference, documentation and other packages say the same as the schema of options?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_rawp.config import reference, schema
from recbole_rawp.config.properties import defenses
from recbole_rawp.core import ascent, ball, selection

ROOT = Path(__file__).parent.parent
CODE = """
import sys, types
package = types.ModuleType("recbole_rawp")
package.__path__ = ["recbole_rawp"]  # without what its __init__ imports
before = set(sys.modules) | {"recbole_rawp"}
sys.modules["recbole_rawp"] = package
import recbole_rawp.config.reference
recbole_rawp.config.reference.as_yaml()
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"recbole_rawp"}))
"""


@pytest.mark.parametrize(
    ("file", "made"), [("properties/rawp.yaml", reference.as_yaml), ("docs/options.md", reference.as_page)]
)
def test_what_users_read_is_made_from_the_schema(file, made):
    written = (ROOT / file).read_text(encoding="utf-8")
    assert written == made(), "python -m recbole_rawp.config.reference"


def test_the_words_of_the_schema_are_those_that_the_code_knows():
    assert tuple(ball.GRANULARITIES) == schema.GRANULARITIES
    assert tuple(ascent.DIRECTIONS) == schema.DIRECTIONS
    assert tuple(selection.LAYER_WEIGHTS) == schema.LAYER_WEIGHTS
    assert set(schema.TARGET.split(" | ")) == {*selection.TARGETS, "activations", "patterns"}
    named = schema.OPTIONS["defense"].meaning.partition(": ")[2].partition(";")[0]
    assert sorted(named.split(", ")) == defenses()


def test_every_option_has_one_name_a_default_that_it_accepts_and_a_sentence():
    several = [option for section in schema.SECTIONS for option in section.options]
    assert len(several) == len(schema.OPTIONS)
    for option in several:
        assert option.accepts(option.default) and option.meaning.endswith(".")
        assert option.name == "defense" or option.name == "attack" or option.name.startswith(schema.PREFIXES)
        if option.unit.endswith("_unit"):
            assert option.unit in schema.OPTIONS


def test_the_schema_needs_the_standard_library_alone():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
