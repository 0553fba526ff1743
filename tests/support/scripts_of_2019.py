"""The two example scripts of October 2019, stated again from their description, as plainly as can be.

Nothing of conjure is used here: transformers' model, torch, and loops that do one thing after the other. No
cache, no batching tricks, no shortcuts. The tests compare `conjure.compat` with this.
"""

import math
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler


def write(model, prompt, *, length, num_samples, temperature, penalty, top_k, top_p, seed, sign_aware=True):
    """Token ids of each sample, without the prompt; `sign_aware=False` is the script's own penalty."""
    torch.manual_seed(seed)
    rows = [list(prompt) for _ in range(num_samples)]
    for _ in range(length):
        distributions = []
        for row in rows:
            with torch.no_grad():
                logits = model(torch.tensor([row])).logits[0, -1].clone()
            if temperature > 0:
                logits = logits / temperature
            for token in set(row):
                shrinks = not sign_aware or logits[token] > 0
                logits[token] = logits[token] / penalty if shrinks else logits[token] * penalty
            distributions.append(_nucleus(_top(logits, top_k), top_p))
        if temperature == 0:
            chosen = [int(logits.argmax()) for logits in distributions]
        else:
            probabilities = torch.stack([logits.softmax(0) for logits in distributions])
            chosen = torch.multinomial(probabilities, 1).flatten().tolist()
        for row, token in zip(rows, chosen, strict=True):
            row.append(token)
    return [row[len(prompt) :] for row in rows]


def _top(logits, count):
    if count <= 0:
        return logits
    edge = sorted(logits.tolist(), reverse=True)[min(count, len(logits)) - 1]
    return torch.tensor([logit if logit >= edge else -math.inf for logit in logits.tolist()])


def _nucleus(logits, mass):
    if mass <= 0:
        return logits
    ordered, order = torch.sort(logits, descending=True)
    sums = torch.cumsum(ordered.softmax(0), 0).tolist()
    kept = torch.full_like(logits, -math.inf)
    for place, token in enumerate(order.tolist()):
        if place > 0 and sums[place - 1] > mass:
            break  # the token before this one crossed it
        kept[token] = logits[token]
    return kept


@dataclass
class Recipe:
    """What a fine-tune was asked for."""

    batch_size: int = 4
    accumulation: int = 1
    epochs: float = 1.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    warmup: int = 0
    decay: float = 0.0
    epsilon: float = 1e-8
    max_norm: float = 1.0
    seed: int = 42
    evaluate_every: int = 0
    eval_batch_size: int = 4


@dataclass
class Course:
    """What happened: the loss of every forward pass, the rate of every update, and so on."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    perplexities: list[float] = field(default_factory=list)


def blocks_of(ids, size):
    """Consecutive blocks of a list of ids; a shorter tail is dropped."""
    blocks = []
    while len(ids) >= size:
        blocks.append(torch.tensor(ids[:size]))
        ids = ids[size:]
    return blocks


def tune(model, blocks, recipe, held_out=None):
    """Train transformers' `model` in place."""
    course = Course()
    batches = math.ceil(len(blocks) / recipe.batch_size)
    per_epoch = batches // recipe.accumulation
    if recipe.max_steps > 0:
        total, epochs = recipe.max_steps, recipe.max_steps // per_epoch + 1
    else:
        total, epochs = per_epoch * recipe.epochs, int(recipe.epochs)
    loader = DataLoader(blocks, sampler=RandomSampler(blocks), batch_size=recipe.batch_size)
    moments = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in model.named_parameters()}
    torch.manual_seed(recipe.seed)
    updates = 0
    for _ in range(epochs):
        for number, batch in enumerate(loader):
            model.train()
            logits = model(batch).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss = loss / recipe.accumulation
            loss.backward()
            course.losses.append(loss.item())
            if (number + 1) % recipe.accumulation == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
                rate = recipe.learning_rate * _factor(updates, recipe.warmup, total)
                updates += 1
                _adamw(model, moments, rate, updates, recipe)
                model.zero_grad()
                course.rates.append(rate)
                if recipe.evaluate_every and updates % recipe.evaluate_every == 0:
                    course.perplexities.append(perplexity(model, held_out, recipe.eval_batch_size))
            if recipe.max_steps > 0 and updates > recipe.max_steps:
                return course
    return course


def _factor(step, warmup, total):
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1.0, total - warmup))


@torch.no_grad()
def _adamw(model, moments, rate, step, recipe):
    for name, weight in model.named_parameters():
        first, second = moments[name]
        first.mul_(0.9).add_(weight.grad, alpha=0.1)
        second.mul_(0.999).addcmul_(weight.grad, weight.grad, value=0.001)
        size = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight.addcdiv_(first, second.sqrt().add_(recipe.epsilon), value=-size)
        if recipe.decay > 0 and "bias" not in name and "LayerNorm.weight" not in name:
            weight.add_(weight, alpha=-rate * recipe.decay)


def perplexity(model, blocks, batch_size):
    """exp of the mean of the batches' mean losses."""
    model.eval()
    losses = []
    for batch in DataLoader(blocks, sampler=SequentialSampler(blocks), batch_size=batch_size):
        with torch.no_grad():
            logits = model(batch).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        losses.append(loss.item())
    return math.exp(sum(losses) / len(losses))


def tokenize(vocabulary, bpe, text, special="<|endoftext|>"):
    """Ids of a text by the tokenizer of 2019; `bpe` gives the ids of a piece of ordinary text."""
    ids = []
    pieces = text.split(special) if text else []
    for place, piece in enumerate(pieces):
        stripped = piece.strip()
        if place == 0 and not stripped:
            ids.append(vocabulary[special])
            continue
        if stripped:
            ids += bpe(stripped)
        if place < len(pieces) - 1:
            ids.append(vocabulary[special])
    return ids
