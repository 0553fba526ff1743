"""Recording a page again changes what commands printed, and nothing else."""

import pytest

from support.pages import load_script

transcripts = load_script("transcripts")

PAGE = """# A page

<!-- before: mkdir sub
echo stored > sub/file.txt -->
<!-- without: ^noise -->
```console
$ cd sub
$ cat file.txt; echo noise
old output
$ echo "$CONJURE_HOME" \\
    "$PWD"
```

Text with <!-- a comment --> in it.

<!-- not recorded: it needs a terminal -->
```console
$ echo new
old
```
"""


def test_a_page_recorded_again(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    transcripts.main([str(page)])
    assert page.read_text() == PAGE.replace("old output\n", "stored\n\n").replace(
        '    "$PWD"\n', '    "$PWD"\n~/.local/share/conjure ~/sub\n'
    )


def test_a_traceback_is_never_published(tmp_path):
    page = tmp_path / "page.md"
    text = "```console\n$ python -c 'raise ValueError(1)'\n```\n"
    page.write_text(text)
    with pytest.raises(SystemExit, match="python -c"):
        transcripts.main([str(page)])
    assert page.read_text() == text


def test_a_command_that_ends_otherwise_than_the_page_says(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- status: 0 3 -->\n```console\n$ true\n\n$ exit 3\n```\n")
    transcripts.main([str(page)], check=True)
    page.write_text("```console\n$ exit 3\n```\n")
    with pytest.raises(SystemExit, match="ended with 3, not with 0:\nexit 3"):
        transcripts.main([str(page)], check=True)
