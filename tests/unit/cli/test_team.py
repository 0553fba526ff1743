"""What `conjure team` says of the store that holds a team's files."""

from conjure.cli.commands import team


def test_what_the_store_can_do_is_a_clause_of_its_own(capsys):
    team._show_objects("s3://runs", "reads, writes, lists and deletes; conditional writes: yes")
    assert capsys.readouterr().out == (
        "Files are in s3://runs; the store reads, writes, lists and deletes; conditional writes: yes\n"
    )
