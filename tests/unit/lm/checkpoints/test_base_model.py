from conjure.lm.checkpoints.base_model import base_difference, base_facts, how_to_restore
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.text.tokenizer import Tokenizer
from support.models import TINY_VOCAB_SIZE, tiny_checkpoint, tiny_model


def source(folder, name="it", kind="folder"):
    return ModelSource(name, folder, kind)


def test_the_same_weights_are_the_same_model_wherever_they_lie(tmp_path):
    noted = base_facts(source(tiny_checkpoint(tmp_path / "base")))
    assert base_difference(source(tiny_checkpoint(tmp_path / "moved")), noted) is None


def test_other_weights_of_one_name_are_another(tmp_path):
    noted = base_facts(source(tiny_checkpoint(tmp_path / "base")))
    now = source(tiny_checkpoint(tmp_path / "new", seed=1))
    assert base_difference(now, noted) == f"it {noted['sha256'][:8]}, but this is it {now.sha256[:8]}"


def test_where_nothing_was_noted_shape_and_tokenizer_tell(tmp_path):
    tuned = tiny_checkpoint(tmp_path / "tuned", seed=5)
    now = source(tiny_checkpoint(tmp_path / "base"))
    assert base_difference(now, None, tuned) is None
    assert base_difference(now, None) is None
    assert base_difference(now, None, tmp_path / "none") is None
    words = f"than it {now.sha256[:8]} has"
    longer = tiny_checkpoint(tmp_path / "longer", n_layer=3)
    assert base_difference(now, None, longer) == f"a model with another shape {words}"
    other = Tokenizer.train(["quite another text, about the sea"], TINY_VOCAB_SIZE)
    save_checkpoint(tmp_path / "other", tiny_model(), other.limited_to(TINY_VOCAB_SIZE))
    assert base_difference(now, None, tmp_path / "other") == f"a model with another tokenizer {words}"


def test_how_to_have_it_again(tmp_path):
    embedded = source(tmp_path, "sprite", "embedded")
    assert how_to_restore(embedded, "sprite", "0.1.0") == "install conjure 0.1.0"
    assert how_to_restore(embedded, "sprite", None) == "install the version of conjure that it came with"
    assert how_to_restore(embedded, "gpt2", "0.1.0") == "use that model"
    assert how_to_restore(source(tmp_path), "it", "0.1.0") == "use that model"
