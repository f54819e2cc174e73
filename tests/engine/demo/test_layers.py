"""Laws of the layer loop: it equals the plain model, packed rows do not mix, late means blind."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from engine.demo.batches import AFTER_QUESTION, OPTION, OTHER
from engine.demo.layers import causal_masks, final_logits, run_layers, weighted_loss

N_LAYERS, VOCABULARY = 3, 96


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        initializer_range=0.3,  # large enough for attention to matter
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.set_attn_implementation(request.param)
    return model.requires_grad_(False)


def draw_ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def residual(model: LlamaForCausalLM, ids: Tensor, n_layers: int, mask: Tensor) -> Tensor:
    hidden = model.model.embed_tokens(ids)
    return run_layers(model, hidden, range(n_layers), masks=[mask] * n_layers)


def test_the_loop_equals_the_plain_model(model: LlamaForCausalLM) -> None:
    ids = draw_ids(2, 17)
    hidden = run_layers(model, model.model.embed_tokens(ids), range(N_LAYERS))
    torch.testing.assert_close(model.lm_head(model.model.norm(hidden)), model(ids).logits)


def test_packed_documents_read_as_if_alone(model: LlamaForCausalLM) -> None:
    first, second = draw_ids(7), draw_ids(5, seed=2)
    document = torch.tensor([[1] * 7 + [2] * 5 + [0] * 3])
    position = torch.tensor([[*range(7), *range(5), 0, 0, 0]])
    packed = torch.cat([first, second, torch.zeros(3, dtype=torch.long)])[None]
    mask, _ = causal_masks(document, torch.zeros_like(document))
    hidden = run_layers(
        model,
        model.model.embed_tokens(packed),
        range(N_LAYERS),
        masks=[mask] * N_LAYERS,
        position=position,
    )
    logits = model.lm_head(model.model.norm(hidden))[0]
    torch.testing.assert_close(logits[:7], model(first[None]).logits[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[7:12], model(second[None]).logits[0], atol=1e-4, rtol=0)


def test_late_binding_hides_the_options_and_only_from_what_follows(
    model: LlamaForCausalLM,
) -> None:
    role = torch.tensor([[OTHER] * 3 + [OPTION] * 4 + [AFTER_QUESTION] * 4])
    usual, late = causal_masks(torch.ones_like(role), role)
    ids = draw_ids(1, 11)
    changed = ids.clone()
    changed[0, 3:7] = (ids[0, 3:7] + 1) % VOCABULARY
    after = slice(7, None)
    seen, other = (residual(model, each, 2, late) for each in (ids, changed))
    assert torch.equal(seen[:, after], other[:, after])
    assert not torch.allclose(seen[:, 3:7], other[:, 3:7])
    open_seen, open_other = (residual(model, each, 2, usual) for each in (ids, changed))
    assert not torch.allclose(open_seen[:, after], open_other[:, after])
    assert torch.equal(seen[:, :7], open_seen[:, :7])


def test_upper_layers_finish_what_lower_layers_began(model: LlamaForCausalLM) -> None:
    ids, lengths = draw_ids(3, 9), torch.tensor([9, 4, 6])
    hidden = run_layers(model, model.model.embed_tokens(ids), range(1))
    logits = final_logits(model, hidden, 1, lengths - 1)
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, :length]).logits[0, -1]
        torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=0)


def test_the_sliced_loss_is_the_weighted_mean_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 16, generator=generator, requires_grad=True)
    matrix = torch.randn(VOCABULARY, 16, generator=generator, requires_grad=True)
    target, weight = draw_ids(700), torch.rand(700, generator=generator) + 0.1
    plain = torch.nn.functional.cross_entropy(hidden @ matrix.T, target, reduction="none")
    expected = (plain * weight).sum() / weight.sum()
    wanted = torch.autograd.grad(expected, (hidden, matrix))
    loss = weighted_loss(hidden, matrix, target, weight)
    found = torch.autograd.grad(loss, (hidden, matrix))
    # bf16 keeps eight bits: products of 16 terms agree to about a percent.
    assert abs(loss.item() - expected.item()) < 0.01 * expected.item()
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02
