import pytest
import torch
from torch.nn import functional

from conjure.errors import ContextLengthError
from conjure.lm.models.decoder import Decoder, KVCache
from support.models import tiny_config, tiny_model

IDS = torch.arange(12).view(2, 6)


class TestInitialise:
    def test_equal_seeds_give_equal_weights_and_touch_no_global_state(self) -> None:
        before = torch.get_rng_state()
        one, two = (Decoder(tiny_config()).initialise(5).state_dict() for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(Decoder(tiny_config()).initialise(6).embedding.weight, one["embedding.weight"])

    def test_spread_as_gpt2s(self) -> None:
        config = tiny_config(n_embd=64, n_layer=8, vocab_size=2000, initializer_range=0.02)
        for name, weight in Decoder(config).initialise(0).named_parameters():
            if "norm" in name or name.endswith("bias"):
                assert set(weight.tolist()) == {1.0 if name.endswith("weight") else 0.0}, name
            else:
                # The projections into the residual stream are scaled by 1 / sqrt(2 * layers) = 1 / 4.
                expected = 0.02 / 4 if name.endswith(("out.weight", "down.weight")) else 0.02
                assert weight.std().item() == pytest.approx(expected, rel=0.05), name

    def test_one_standard_deviation_for_all(self) -> None:
        model = Decoder(tiny_config(n_embd=64, tie_word_embeddings=False)).initialise(0, std=0.3)
        for name in ("blocks.0.mlp.down.weight", "position_embedding.weight", "lm_head.weight"):
            assert model.get_parameter(name).std().item() == pytest.approx(0.3, rel=0.05)


class TestHead:
    def test_tied_is_the_embedding(self) -> None:
        model = tiny_model()
        assert model.head_weight is model.embedding.weight
        assert model.head(model(IDS)).shape == (2, 6, 300)

    def test_untied_has_its_own(self) -> None:
        model = tiny_model(tie_word_embeddings=False)
        assert model.head_weight is not model.embedding.weight
        assert model.head_weight.shape == model.embedding.weight.shape


class TestContext:
    def test_the_whole_context_and_not_one_more(self) -> None:
        model = tiny_model()
        assert model(torch.zeros(1, 32, dtype=torch.int64)).shape == (1, 32, 16)
        with pytest.raises(ContextLengthError, match="33 tokens do not fit the model's context of 32"):
            model(torch.zeros(1, 33, dtype=torch.int64))

    def test_the_past_counts(self) -> None:
        model = tiny_model()
        cache = KVCache(model.config, 1, 40)
        model(torch.zeros(1, 30, dtype=torch.int64), cache=cache)
        with pytest.raises(ContextLengthError, match="33 tokens"):
            model(torch.zeros(1, 3, dtype=torch.int64), cache=cache)


class TestIndependence:
    def test_no_token_sees_a_later_one(self) -> None:
        model = tiny_model()
        changed = IDS.clone()
        changed[:, 4:] = 299
        assert torch.equal(model(changed)[:, :4], model(IDS)[:, :4])
        assert not torch.equal(model(changed)[:, 4:], model(IDS)[:, 4:])

    def test_what_stands_in_the_padding_does_not_matter(self) -> None:
        model = tiny_model()
        pad = torch.tensor([3, 0])
        changed = IDS.clone()
        changed[0, :3] = 299
        with torch.no_grad():
            one, other = model(IDS, pad=pad), model(changed, pad=pad)
        assert torch.equal(one[0, 3:], other[0, 3:])
        assert torch.isfinite(other).all()

    def test_no_record_sees_another(self) -> None:
        model = tiny_model()
        segments = torch.tensor([[0, 0, 1, 1, 1, 2]]).expand(2, 6)
        changed = IDS.clone()
        changed[:, :2] = 299
        changed[:, 5] = 7
        with torch.no_grad():
            one, other = model(IDS, segments=segments), model(changed, segments=segments)
        assert torch.equal(one[:, 2:5], other[:, 2:5])

    def test_records_are_trained_on_with_the_attention_made_for_a_cpu(self, monkeypatch) -> None:
        """Torch's own reads all that a mask hides, too, and leaves bfloat16 units idle."""
        model = tiny_model()
        segments = torch.tensor([[0, 0, 1, 1, 1, 2]]).expand(2, 6)
        with torch.no_grad():
            expected = model(IDS, segments=segments)
        monkeypatch.setattr(functional, "scaled_dot_product_attention", None)
        torch.testing.assert_close(model(IDS, segments=segments), expected, rtol=1e-4, atol=1e-5)
