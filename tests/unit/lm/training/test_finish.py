"""The end of a fine-tune: the report first, for without the training state it cannot be made again."""

import errno
from types import SimpleNamespace

import pytest

from conjure.lm.training.finetune import finish
from conjure.lm.training.state import state_folder


def test_the_training_state_stays_until_the_report_is_written(tmp_path, monkeypatch):
    state = state_folder(tmp_path)
    state.mkdir(parents=True)
    prepared = SimpleNamespace(output=tmp_path)

    def fail(*_, run):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("conjure.lm.training.finetune.write_report", fail)
    with pytest.raises(OSError, match="No space left"):
        finish(prepared, None, None, tmp_path)
    assert state.is_dir()
    monkeypatch.setattr("conjure.lm.training.finetune.write_report", lambda *_, run: tmp_path / "page")
    assert finish(prepared, None, None, tmp_path) == tmp_path / "page"
    assert not state.exists()
