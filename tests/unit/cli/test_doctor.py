"""What `conjure doctor` says of language models."""

import pytest

from conjure.cli.commands import doctor
from conjure.lm.native import Status


@pytest.mark.parametrize(
    ("library", "words"),
    [(None, "; without torch, no model works"), (object(), "; without torch, only generating, ")],
)
def test_without_torch_models_need_the_native_engine(monkeypatch, library, words):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "torch" else object())
    monkeypatch.setattr(doctor, "status", lambda: Status(library, "avx2", "it was not built"))
    assert words in doctor._language_models().text
