"""The optimizer gives torch's updates, and loads no compiler."""

import subprocess
import sys

import pytest
import torch

from conjure.lm.training.adamw import AdamW


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 4), (4,), (1,))]


def groups(of: list[torch.nn.Parameter]) -> list[dict]:
    return [{"params": of[:1], "weight_decay": 0.1}, {"params": of[1:], "weight_decay": 0.0}]


def test_updates_are_those_of_torch_bit_for_bit():
    own, theirs = parameters(), parameters()
    mine = AdamW(groups(own), 1e-2)
    reference = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=(0.9, 0.999), fused=True)
    generator = torch.Generator().manual_seed(4)
    for step in range(5):
        for ours, other in zip(own, theirs, strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator)
            other.grad = ours.grad.clone()
        if step == 2:
            own[2].grad = theirs[2].grad = None  # one without a gradient stays as it is
        for optimizer in (mine, reference):
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
    for ours, other in zip(own, theirs, strict=True):
        assert torch.equal(ours, other)
        assert ours.grad is None
        assert mine.state[ours].keys() == reference.state[other].keys()
        assert all(
            torch.equal(mine.state[ours][key], reference.state[other][key]) for key in mine.state[ours]
        )


@pytest.mark.slow
def test_a_training_loads_no_compiler():
    script = (
        "import sys\n"
        "from support.training import tiny_trainer\n"
        "events = list(tiny_trainer().run())\n"
        "assert len(events) > 3\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="tests", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch._dynamo was imported"
