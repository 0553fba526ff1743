"""`conjure.compat` writes what the script of 2019 wrote: the same tokens, from a cache where it had none."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from conjure.compat.run_generation import main
from conjure.compat.sampling import OldSampling, sample, sample_tokens
from conjure.compat.text import clean_up
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.generation.sampling import penalise_repetition
from support import scripts_of_2019 as theirs
from support.models import TINY_VOCAB_SIZE, tiny_checkpoint, tiny_config, tiny_tokenizer
from support.oracle import reference_model

PROMPT = [77, 101, 32, 299, 5, 101]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same weights twice: ours and transformers'."""
    folder = tmp_path_factory.mktemp("compat")
    reference = reference_model(tiny_config(context_length=64), std=0.2)
    reference.save_pretrained(folder)
    return load_model(folder), reference


def write(model, **settings) -> list[list[int]]:
    seed = settings.pop("seed")
    generator = torch.Generator().manual_seed(seed)
    return sample(TorchEngine(model), settings.pop("prompt"), OldSampling(**settings), generator)


DEFAULTS = {
    "length": 20,
    "num_samples": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
    "seed": 42,
    "prompt": PROMPT,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_samples": 4},
        {"num_samples": 3, "temperature": 0.7, "seed": 7},
        {"temperature": 1.5, "top_p": 0.0, "top_k": 5},
        {"top_k": 40, "top_p": 0.5, "num_samples": 2},
        {"top_k": 10_000, "top_p": 1.0},
        {"top_k": 1},
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.3, "num_samples": 2},
        {"temperature": -1.0, "num_samples": 2},
        {"repetition_penalty": 1.2, "num_samples": 3, "temperature": 0.8, "top_k": 20},
        {"repetition_penalty": 0.7, "top_p": 0.95},
        {"prompt": [299], "length": 64, "num_samples": 2},
        {"prompt": PROMPT, "length": 59},
    ],
    ids=str,
)
def test_tokens_are_those_of_the_loop_without_a_cache(models, changes):
    model, reference = models
    settings = {**DEFAULTS, **changes}
    named = {name: value for name, value in settings.items() if name != "repetition_penalty"}
    prompt = named.pop("prompt")
    expected = theirs.write(reference, prompt, penalty=settings["repetition_penalty"], **named)
    assert write(model, **settings) == expected


def test_the_whole_script_prints_the_same_texts(tmp_path, capsys):
    folder = str(tiny_checkpoint(tmp_path / "model"))
    model = f"--model_name_or_path={folder}"
    flags = ["--prompt= My dog ", "--num_samples=3", "--length=15", "--seed=5"]
    status = main(["--model_type=gpt2", model, *flags])

    settings = {"temperature": 1.0, "penalty": 1.0, "top_k": 0, "top_p": 0.9, "seed": 5}
    prompt = tiny_tokenizer().encode("My dog")
    reference = GPT2LMHeadModel.from_pretrained(folder)
    rows = theirs.write(reference, prompt, length=15, num_samples=3, **settings)
    assert status == 0
    assert capsys.readouterr().out == "".join(f"{clean_up(tiny_tokenizer().decode(row))}\n" for row in rows)


def test_seeds_and_samples_differ(models):
    one, other = write(models[0], **{**DEFAULTS, "num_samples": 2})
    (third,) = write(models[0], **{**DEFAULTS, "seed": 1})
    assert len({tuple(one), tuple(other), tuple(third)}) == 3


def test_the_penalty_of_2019_is_ours_where_logits_are_positive():
    logits = torch.tensor([[2.0, 0.5, -1.0]])
    ours = torch.from_numpy(penalise_repetition(logits.numpy(), [[0, 2]], 2.0))
    assert ours.tolist() == [[1.0, 0.5, -2.0]]  # the script: -0.5, likelier than before


def test_equals_of_the_kth_stay():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
    settings = OldSampling(**{**_sampling(), "top_k": 2, "top_p": 0.0})
    history = [[0]]
    drawn = {
        int(sample_tokens(logits, history, settings, torch.Generator().manual_seed(seed)))
        for seed in range(200)
    }
    assert drawn == {0, 2, 3, 4}


def test_beyond_the_context_it_slides_where_the_script_crashed(models):
    """Each time the window is full, the row is read again from its last half context."""
    read = []

    class Watched(TorchEngine):
        def read(self, ids, cohort):
            if ids.shape[1] > 1:
                read.append(ids.tolist())
            return super().read(ids, cohort)

    settings = OldSampling(**{**_sampling(), "length": 100, "num_samples": 2})
    rows = sample(Watched(models[0]), PROMPT, settings, torch.Generator().manual_seed(3))

    full = [PROMPT + row for row in rows]
    first, second = 64, 64 + 32
    assert read[0] == [PROMPT]
    assert sorted(read[1]) == sorted(row[first + 1 - 32 : first + 1] for row in full)
    assert sorted(read[2]) == sorted(row[second + 2 - 32 : second + 2] for row in full)
    assert len(read) == 3
    assert [len(row) for row in rows] == [100, 100]


def test_a_length_of_nothing_writes_nothing(models):
    assert write(models[0], **{**DEFAULTS, "length": 0, "num_samples": 2}) == [[], []]


def test_every_token_is_in_the_vocabulary(models):
    rows = write(models[0], **{**DEFAULTS, "num_samples": 5, "top_p": 0.0})
    assert all(0 <= token < TINY_VOCAB_SIZE for row in rows for token in row)


def _sampling() -> dict:
    return {name: value for name, value in DEFAULTS.items() if name not in ("seed", "prompt")}
