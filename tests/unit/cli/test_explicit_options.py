import click
import pytest

from conjure.cli.explicit_options import spell_as_typed


@click.command
@click.option("-n", "--num-samples", "num_samples")
@click.option("-m", "--mount", multiple=True)
@click.option("-f", "--force", "overwrite", is_flag=True)
@click.option("-i", "--image", "--docker-image", "image")
def command():
    pass


@pytest.mark.parametrize(
    ("typed", "name", "values", "told"),
    [
        (["--num-samples", "0"], "num_samples", (), "--num-samples"),
        (["-n", "0"], "num_samples", (3,), "-n 3"),
        ([], "num_samples", (3,), "--num-samples 3"),
        (["--num-samples=0"], "num_samples", (), "--num-samples"),
        (["-m", "x"], "mounts", ("a b", "c"), "-m 'a b' -m c"),
        ([], "overwrite", (True,), "--force"),
        ([], "image", (), "--image"),
        (["--docker-image", "x"], "image", (), "--docker-image"),
        ([], "block_size", (8,), "--block-size 8"),  # of another command
    ],
)
def test_an_option_is_told_as_it_was_typed(typed, name, values, told):
    assert spell_as_typed(command, typed)(name, values) == told
