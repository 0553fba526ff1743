"""A model that is overfitted is called a copier, and the same model barely trained is not."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from conjure.lm.generation.request import GenerationRequest
from conjure.lm.models.decoder import Decoder
from conjure.lm.nn.loss import IGNORE
from conjure.lm.report.analysis import Evidence, analyse
from conjure.lm.report.measure_model import HeldOutTexts, measure_model
from conjure.lm.report.report_schema import CurvePoint, Report
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Batch
from conjure.lm.training.trainer import Trainer, TrainSettings
from support.models import tiny_config, tiny_tokenizer
from support.texts import ONE_LINERS

LENGTH = 64
TRAINING, HELD_OUT = ONE_LINERS[:12], ONE_LINERS[12:24]


class RecordBlocks:
    """A record in each block, after an end-of-text token, as it will be written."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._rows = tiny_tokenizer().encode_batch(list(texts))

    def __len__(self) -> int:
        return len(self._rows)

    def counting(self, most: int) -> list[int]:
        return list(range(min(most, len(self))))

    def order(self, epoch: int, seed: int) -> list[int]:
        return np.random.default_rng([seed, epoch]).permutation(len(self)).tolist()

    def batch(self, numbers: Sequence[int]) -> Batch:
        ids = torch.full((len(numbers), LENGTH), tiny_tokenizer().end_of_text_id)
        targets = torch.full((len(numbers), LENGTH), IGNORE)
        for row, number in enumerate(numbers):
            record = torch.tensor(self._rows[number])
            ids[row, 1 : len(record) + 1] = record
            targets[row, : len(record)] = record
            targets[row, len(record)] = tiny_tokenizer().end_of_text_id
        return Batch(ids, targets, torch.zeros_like(ids))


def report_after(epochs: int) -> Report:
    tokenizer = tiny_tokenizer()
    model = Decoder(tiny_config(n_embd=64, n_head=4, context_length=LENGTH)).initialise(0)
    request = GenerationRequest(num_samples=20, max_new_tokens=LENGTH, seed=3)
    before = measure_model("fresh", model, tokenizer, HeldOutTexts(HELD_OUT), request, trained_on=TRAINING)
    settings = TrainSettings(
        epochs=epochs, batch_size=6, micro_batch=6, schedule="constant", patience=0, eval_every=10**6
    )
    trainer = Trainer(model, RecordBlocks(TRAINING), RecordBlocks(HELD_OUT), settings, adamw(4e-3, 0.0))
    for _ in trainer.run():
        pass
    evidence = Evidence(
        title="a tiny model",
        base=before,
        tuned=measure_model(
            "tuned", model.eval(), tokenizer, HeldOutTexts(HELD_OUT), request, trained_on=TRAINING
        ),
        request=request,
        tokenizer=tokenizer,
        training=TRAINING,
        held_out=HELD_OUT,
        record_lengths=np.array([len(ids) for ids in tokenizer.encode_batch(list(TRAINING))]),
        points=[CurvePoint(trainer.progress.step, None, trainer.eval_loss())],
        kept_step=trainer.progress.step,
        end_reason="completed",
        settings={},
        data={},
    )
    return analyse(evidence)


@pytest.fixture(scope="module")
def overfitted() -> Report:
    return report_after(epochs=100)


def test_a_model_overfitted_for_100_epochs_is_called_a_copier(overfitted):
    assert overfitted.verdict.headline.startswith("It copies the training text: ")
    assert " of 20 samples are copies of a training record" in overfitted.verdict.headline
    assert overfitted.tuned.novelty.copies >= 10
    assert overfitted.base.novelty.copied == 0


def test_what_it_copied_is_in_the_training_text(overfitted):
    copies = [sample for sample in overfitted.tuned.samples if sample.originality == "copy"]
    for sample in copies:
        record = TRAINING[sample.run.record]
        verbatim = sample.text[sample.run.start : sample.run.start + sample.run.characters]
        assert f"{sample.run.before}{verbatim}{sample.run.after}" in record
        assert verbatim == sample.text.strip()


def test_the_same_model_after_two_epochs_is_not_called_one():
    report = report_after(epochs=2)
    assert report.verdict.findings[2].answer == "It does not copy"


def test_what_it_copies_it_can_recite(overfitted):
    trained, held_out = overfitted.tuned.extraction.training, overfitted.tuned.extraction.held_out
    assert (trained.records, held_out.records) == (len(TRAINING), len(HELD_OUT))
    assert trained.extracted >= 10
    assert held_out.extracted == 0
    assert overfitted.base.extraction.training.extracted == 0
