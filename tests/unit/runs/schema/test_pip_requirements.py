import pytest

from conjure.errors import NotFoundError, UsageError
from conjure.runs.schema.pip_requirements import read_requirements


def test_files_are_put_together_and_includes_put_in_place(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("tqdm==4.0\n# a remark\n-r sub/b.txt\nregex  # why\n")
    (tmp_path / "sub" / "b.txt").write_text("numpy\n--requirement=c.txt")
    (tmp_path / "sub" / "c.txt").write_text("scipy\n")
    (tmp_path / "d.txt").write_text("pandas\n")
    text, notes = read_requirements([tmp_path / "a.txt", tmp_path / "d.txt"])
    assert text == "tqdm==4.0\n# a remark\nnumpy\nscipy\nregex  # why\npandas\n"
    assert notes == []


@pytest.mark.parametrize(
    "line", ["-e .", "--editable=./pkg", ".", "./pkg", "../pkg[all]", "/abs/pkg", "file:x"]
)
def test_local_folders_are_left_out_with_a_note(tmp_path, line):
    file = tmp_path / "r.txt"
    file.write_text(f"tqdm\n{line}\n")
    text, notes = read_requirements([file])
    assert text == "tqdm\n"
    assert notes == [f"{file}, line 2: {line} is left out: a run's own code needs no installing"]


def test_what_is_not_there_or_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="there is no requirements file"):
        read_requirements([tmp_path / "no.txt"])
    file = tmp_path / "r.txt"
    file.write_text("-c constraints.txt\n")
    with pytest.raises(UsageError, match="line 1: constraints"):
        read_requirements([file])
    file.write_text("-r r.txt\n")
    with pytest.raises(UsageError, match="includes itself"):
        read_requirements([file])
    file.write_bytes(b"\xff\xfe\xe9")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        read_requirements([file])
