"""Which pipes a run's processes are known by afterwards."""

import json
import os

from conjure.core.dir_fd import Folder
from conjure.runs.host.orphan_detection import ProcessMarks
from conjure.runs.schema.run_folder import MARKS_FILE


def test_a_pipe_with_a_name_is_no_mark(tmp_path):
    """Its number is the disk's, and a pipe of another program may have the same."""
    os.mkfifo(tmp_path / "named")
    named = os.open(tmp_path / "named", os.O_RDONLY | os.O_NONBLOCK)
    reader, writer = os.pipe()
    try:
        with Folder.open(tmp_path) as folder:
            ProcessMarks(folder).note_pipes([named, reader])
        noted = json.loads((tmp_path / MARKS_FILE).read_text())["pipes"]
        assert noted == [os.fstat(reader).st_ino]
    finally:
        for descriptor in (named, reader, writer):
            os.close(descriptor)
