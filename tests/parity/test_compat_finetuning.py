"""`conjure.compat` trains as the script of 2019 did: losses, rates, weights and perplexities, dropout on."""

import math

import pytest
import torch

from conjure.compat.training import OldTraining, Training, evaluate
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.checkpoints.tensor_layout import take_apart
from support import scripts_of_2019 as theirs
from support.models import tiny_config
from support.oracle import random_ids, reference_model

DROPOUT = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
T = 12


@pytest.fixture
def models(tmp_path):
    """The same weights twice: ours and transformers'."""

    def make(**settings):
        config = tiny_config(**{**DROPOUT, **settings})
        reference = reference_model(config, std=0.15, attn_implementation="eager")
        reference.save_pretrained(tmp_path)
        return load_model(tmp_path), reference

    return make


def blocks(count: int, seed: int = 0) -> torch.Tensor:
    return random_ids(tiny_config(), count, T, seed)


def ours(model, data, recipe: theirs.Recipe, held_out=None):
    settings = OldTraining(
        per_gpu_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.decay,
        adam_epsilon=recipe.epsilon,
        max_grad_norm=recipe.max_norm,
        seed=recipe.seed,
    )
    training, course = Training(model, data, settings), theirs.Course()
    for update in training.run():
        course.losses.append(update.loss_sum)
        course.rates.append(update.learning_rate)
        if recipe.evaluate_every and update.step % recipe.evaluate_every == 0:
            loss = evaluate(model, held_out, recipe.eval_batch_size)
            course.perplexities.append(math.exp(loss))
    assert training.updates == training.step == len(course.rates)
    return training, course


def assert_equal(models, recipe, count=11, **settings):
    model, reference = models(**settings)
    data, held_out = blocks(count), blocks(7, seed=1)
    expected = theirs.tune(reference, list(data), recipe, list(held_out))
    training, got = ours(model, data, recipe, held_out)

    # The script tells the sum of the losses so far, and the rate of the update to come.
    sums = torch.tensor(expected.losses).double().cumsum(0)
    assert training.loss_sum == pytest.approx(float(sums[-1]), rel=1e-5)
    assert got.rates[:-1] == pytest.approx(expected.rates[1:], rel=1e-9)
    assert got.perplexities == pytest.approx(expected.perplexities, rel=1e-4)
    weights = dict(reference.named_parameters())
    for name, weight in model.named_parameters():
        for stored, part in take_apart(model.config, name, weight.detach()).items():
            torch.testing.assert_close(part, weights[stored].detach(), rtol=1e-3, atol=3e-5)
    return expected, got


def test_the_defaults_of_2019_with_dropout(models):
    expected, _ = assert_equal(models, theirs.Recipe())
    assert len(expected.rates) == 3


def test_the_classic_settings_of_the_jokes(models):
    recipe = theirs.Recipe(batch_size=2, epochs=3, learning_rate=1e-3)
    expected, got = assert_equal(models, recipe)
    assert len(expected.rates) == 18
    assert got.rates[-1] == 0.0


@pytest.mark.parametrize(
    "recipe",
    [
        theirs.Recipe(batch_size=3, accumulation=2, epochs=3),
        theirs.Recipe(batch_size=2, warmup=4, epochs=2, learning_rate=1e-3),
        theirs.Recipe(batch_size=2, warmup=40, epochs=2, learning_rate=1e-3),
        theirs.Recipe(batch_size=2, epochs=2, decay=0.1, learning_rate=3e-3),
        theirs.Recipe(batch_size=2, epochs=1.5, learning_rate=1e-3),
        theirs.Recipe(batch_size=2, max_norm=0.05, epsilon=1e-3, learning_rate=1e-3),
        theirs.Recipe(batch_size=4, seed=7, epochs=2),
        theirs.Recipe(batch_size=20),
    ],
    ids=["accumulation", "warm-up", "warm-up only", "decay", "1.5 epochs", "clip", "seed", "one batch"],
)
def test_every_setting(models, recipe):
    assert_equal(models, recipe)


def test_gradients_of_left_over_batches_reach_the_next_epoch(models):
    recipe = theirs.Recipe(batch_size=2, accumulation=4, epochs=3, learning_rate=1e-3)
    expected, _ = assert_equal(models, recipe)  # 6 batches: 4 make an update, 2 are left over, thrice
    assert (len(expected.losses), len(expected.rates)) == (18, 3)


@pytest.mark.parametrize("max_steps", [1, 5, 6, 13])
def test_max_steps_makes_one_more_update_at_no_rate(models, max_steps):
    recipe = theirs.Recipe(batch_size=2, max_steps=max_steps, epochs=99, learning_rate=1e-3)
    expected, _ = assert_equal(models, recipe)
    assert len(expected.rates) == max_steps + 1
    assert expected.rates[-1] == 0.0


def test_evaluating_in_between_changes_the_order_of_random_numbers_as_it_did(models):
    recipe = theirs.Recipe(batch_size=2, epochs=2, evaluate_every=2, eval_batch_size=3, learning_rate=1e-3)
    expected, got = assert_equal(models, recipe)
    assert len(got.perplexities) == len(expected.perplexities) == 6


def test_other_shapes_of_gpt2(models):
    assert_equal(models, theirs.Recipe(batch_size=2), n_layer=1, n_head=1, tie_word_embeddings=True)


def test_without_dropout(models):
    assert_equal(models, theirs.Recipe(batch_size=2), embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)


def test_perplexity_is_of_the_mean_of_batch_means(models):
    model, reference = models()
    held_out = blocks(7, seed=3)
    expected = theirs.perplexity(reference, list(held_out), 3)  # batches of 3, 3 and 1
    assert math.exp(evaluate(model, held_out, 3)) == pytest.approx(expected, rel=1e-5)
    whole = math.exp(evaluate(model, held_out, 7))
    assert whole != pytest.approx(expected, rel=1e-4), "the batches' sizes should show"
