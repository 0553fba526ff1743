"""100 MB of training text are compared within 2 GB of memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import random, resource
from conjure.lm.report.novelty import compare_with_training
from conjure.lm.text.tokenizer import Tokenizer

rng = random.Random(0)
words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(20_000)]
weights = [1 / rank for rank in range(1, len(words) + 1)]

def text(count):
    return " ".join(rng.choices(words, weights, k=count))

novel = text(1_000_000)  # one record of some 5 MB, and again and again in shorter ones
lines = [novel[start : start + 500] for start in range(0, len(novel), 500)]
samples = [text(60) for _ in range(400)] + [novel[1_234_567:1_234_867]]

def records():
    yield novel
    for _ in range(20):
        yield from lines

size = len(novel) * 21
overlaps = compare_with_training(samples, records(), Tokenizer.train(["a"], 257))
assert size > 100_000_000, size
assert overlaps[-1].originality == "copy"
assert {overlap.originality for overlap in overlaps[:-1]} == {"own"}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.large
@pytest.mark.timeout(1200)
def test_100_mb_of_text_in_2_gb_of_memory():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 2 * 1024**3
