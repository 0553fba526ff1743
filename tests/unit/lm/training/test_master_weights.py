"""What is optimized, and by how much in a step."""

import torch

from conjure.lm.training.master_weights import MasterOptimizer, adamw
from support.models import tiny_model


def test_every_weight_is_updated_once_and_matrices_alone_decay():
    weights = dict(tiny_model().named_parameters())
    (optimizer,) = adamw(1e-2, 0.1)(weights)
    decay = {each: group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(weights)
    assert decay == {each: 0.1 if each.dim() == 2 else 0.0 for each in weights.values()}


def test_a_model_of_matrices_alone_has_one_kind_of_weights():
    (optimizer,) = adamw(1e-2, 0.1)({"only": torch.nn.Parameter(torch.ones(2, 3))})
    assert len(optimizer.param_groups) == 1


def test_each_step_is_made_at_its_share_of_the_peak_rate():
    def weights_after(peak, factor):
        optimizer = MasterOptimizer(tiny_model(), adamw(peak, 0.1))
        for step in range(2):
            optimizer.set_gradients([torch.ones_like(each) for each in optimizer.trained])
            optimizer.step(factor, (1, step))
        return torch.cat([each.detach().flatten() for each in optimizer.trained])

    assert torch.equal(weights_after(4e-2, 0.25), weights_after(1e-2, 1.0))
    assert not torch.equal(weights_after(4e-2, 0.25), weights_after(4e-2, 1.0))
