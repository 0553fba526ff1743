"""Whatever stands in a run's files and on the command line, it is read or refused with one sentence.

`make test` tries 300 inputs of each kind; `scripts/fuzz -n N` as many as one likes.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conjure.cli.main import _run
from conjure.core.secrets import STARS, Redaction
from conjure.errors import ConjureError
from conjure.runs.artifacts.manifest import Manifest
from conjure.runs.database.record_files import record_from_dict, record_to_dict
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.spec import Mount, RunSpec
from conjure.runs.schema.stop_conditions import parse_stop_condition
from support.casting import OWNER

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
many = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Nested ones are picked: to draw them takes longer than all the reading.
NESTED = [
    [],
    {},
    [[]],
    [None],
    [1, "x"],
    [{"a": 1}],
    {"a": {}},
    {"": [1e999]},
    {"a": [[["b"]]]},
    [[1], [2, [3]]],
]
VALUES = st.sampled_from([None, True, False, *NESTED]) | st.integers() | st.floats() | st.text(max_size=8)
RECORD = record_to_dict(RunRecord(1, RunSpec(command=("true",), folder=Path("/code")), owner=OWNER))
READ_OR_REFUSED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConjureError)


@given(field=st.sampled_from([*RECORD, *RECORD["spec"]]), value=VALUES)
@many
def test_run_json(field, value):
    stored = json.loads(json.dumps(RECORD))
    (stored if field in RECORD and field not in ("spec",) else stored["spec"])[field] = value
    try:
        record_from_dict(stored)
    except READ_OR_REFUSED:
        return


@given(content=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
@many
def test_manifest(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    try:
        Manifest.load(tmp_path / "manifest.json")
    except (*READ_OR_REFUSED, OSError):
        return


@given(text=st.text(max_size=40) | st.text("runs/1.:~\\ @", max_size=20))
@many
def test_mounts(text):
    try:
        mount = Mount.parse(text)
    except ConjureError:
        return
    assert not mount.target.startswith(("/", "../"))
    assert mount.target not in ("", ".", "..")


@given(text=st.text(max_size=30) | st.text("loss<>=&:\"' 019.naninfe@", max_size=30))
@many
def test_stop_conditions(text):
    try:
        parse_stop_condition(text)
    except ConjureError:
        return


LINES = st.text(max_size=60) | st.text("curl -u me:pw@://?&;='\"\\|$KEYtoken ", max_size=60)


@given(line=LINES)
@many
def test_redaction_changes_nothing_but_secrets(line):
    redaction = Redaction()
    (stored,) = redaction.command([line])
    assert stored == line or STARS in stored
    for part in stored.split(STARS):
        assert part in line


WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
# Verbs that neither start anything nor read what is not there.
LOOKING = ["ps", "info", "logs", "metrics", "stats", "diff", "lineage", "ls", "rm", "label", "link", "help"]
ODD = ["--json", "-n", "--plot", "-f", "9" * 30, "last~3", "runs/1", "-1", "--", "nan"]


@given(
    verb=st.sampled_from(LOOKING) | WORDS,
    words=st.lists(WORDS | st.sampled_from(ODD), max_size=4),
)
@many
@pytest.mark.timeout(3600)
def test_command_lines(verb, words, capsys, conjure_home):
    status = _run([verb, *words])
    err = capsys.readouterr().err
    assert status in (0, 1, 2), (verb, words, err)
    assert "internal error" not in err
    assert not (conjure_home / "crashes").exists()
