"""The whole of `conjure demo`, with the model that comes with conjure: half a minute on two idle cores.

``make test-story`` runs this; how a demo begins and is stopped is in tests/story/test_steps.py.
"""

import re
import subprocess

from support.terminal import CONJURE, environment


def test_the_demo_tells_the_story():
    done = subprocess.run([CONJURE, "demo"], capture_output=True, text=True, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    for number in (1, 2, 3, 4):
        assert f"Run {number} complete" in shown
    losses = re.search(r"loss on unseen jokes .*?([\d.]+) +([\d.]+)\n", shown)
    assert float(losses[2]) < float(losses[1])
    lengths = re.search(r"mean length .*?([\d.]+) +([\d.]+) +([\d.]+)\n", shown)
    before, after, data = (float(lengths[place]) for place in (1, 2, 3))
    assert abs(after - data) < abs(before - data) / 2
