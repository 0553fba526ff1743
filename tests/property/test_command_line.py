import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.runs.schema.argv import fill_in

TEMPLATES = [
    "printf %s :p:",
    'printf %s ":p:"',
    "printf %s ':p:'",
    "printf %s \\':p:\\'",
    "printf %s '\\':p:",
    'printf %s "\\\\":p:',
]
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=20)


@given(value=VALUES, template=st.sampled_from(TEMPLATES))
@settings(max_examples=60)
def test_a_value_arrives_as_the_text_it_is(value, template):
    (line,) = fill_in((template,), {"p": value})
    (plain,) = fill_in((template,), {"p": "X"})
    shown = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    around = subprocess.run(["bash", "-c", plain], capture_output=True, check=True).stdout
    assert shown == around.replace(b"X", value.encode())
