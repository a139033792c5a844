"""φ combined: side by side, averaged, joined; judged by NumPy's attention and products."""

import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import combine, types
from hypert5_jax.phi.files import PhiHeader, load_phi
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from hypert5_jax.phi.task_phi import TaskPhi, combined, side_by_side
from hypert5_jax.phi.types import Prefix, SitePhi
from hypert5_jax.t5.layers import Attention
from tests.models import TINY, random_tree

PREFIX = PrefixSpec(3, cross_attention="own")
LORA = LoRASpec(2, alpha=4.0, maps=("query", "out"))
RNG = np.random.default_rng(0)


def random_phi(spec, seed, batch=1):
    return random_tree(phi_shapes(spec, TINY.sites, batch), seed, scale=1.0)


def header(spec):
    return PhiHeader(spec, TINY.sites, "a" * 64, "by hand")


@pytest.mark.parametrize("spec", [PREFIX, LORA], ids=["prefix", "lora"])
def test_stacked_phi_are_the_rows_of_a_batch_and_are_taken_back(spec):
    phis = [random_phi(spec, seed, batch) for seed, batch in ((1, 1), (2, 2))]
    both = combine.stack(phis)
    assert types.batch_size(both) == 3
    back = dict(types.named_arrays(combine.take(both, [2, 0, 2])))
    one, two = (dict(types.named_arrays(phi)) for phi in phis)
    for name, array in back.items():
        rows = [two[name][:, 1], one[name][:, 0], two[name][:, 1]]
        np.testing.assert_array_equal(array, np.stack(rows, 1))


def test_attention_over_concatenated_prefixes_is_softmax_over_all_columns():
    heads, width = TINY.num_heads, TINY.head_dim
    phis = [random_phi(PREFIX, seed) for seed in (1, 2)]
    layer = 1
    sites = [phi.decoder.self_attention.prefix for phi in phis]
    joined = combine.concatenate(phis).decoder.self_attention.prefix
    maps = {
        name: RNG.standard_normal((TINY.emb_dim, heads * width)).astype(np.float32)
        for name in ("query", "key", "value")
    }
    maps["out"] = RNG.standard_normal((heads * width, TINY.emb_dim)).astype(np.float32)
    x = RNG.standard_normal((2, 5, TINY.emb_dim)).astype(np.float32)
    bias = RNG.standard_normal((1, heads, 5, 5)).astype(np.float32)
    found = Attention(TINY).apply(
        {"params": {name: {"kernel": kernel} for name, kernel in maps.items()}},
        *(x, x, bias),
        SitePhi(prefix=Prefix(joined.keys[layer], joined.values[layer])),
        True,
    )

    def projected(name):
        return (x @ maps[name]).reshape(2, 5, heads, width)

    keys = [site.keys[layer].repeat(2, 0) for site in sites] + [projected("key")]
    values = [site.values[layer].repeat(2, 0) for site in sites] + [projected("value")]
    scores = np.einsum("bqhc,bkhc->bhqk", projected("query"), np.concatenate(keys, 1))
    scores[..., 6:] += bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    taken = np.einsum("bhqk,bkhc->bqhc", weights, np.concatenate(values, 1))
    expected = taken.reshape(2, 5, -1) @ maps["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def changes(phi):
    """{path: a @ b} of a LoRA φ."""
    arrays = dict(types.named_arrays(phi))
    return {
        name[:-2]: np.einsum("lnir,lnro->lnio", a, arrays[f"{name[:-2]}/b"])
        for name, a in arrays.items()
        if name.endswith("/a")
    }


def test_joined_ranks_are_the_sum_of_the_products_and_their_mean_the_mean():
    phis = [random_phi(LORA, seed) for seed in (1, 2, 3)]
    each = [changes(phi) for phi in phis]
    summed, mean = changes(combine.concatenate(phis)), changes(combine.mean(phis))
    assert len(summed) == 6  # three sites, two maps
    for path, change in summed.items():
        expected = sum(one[path] for one in each)
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean[path], expected / 3, rtol=1e-4, atol=1e-5)


def test_the_mean_of_prefixes_is_that_of_keys_and_values():
    phis = [random_phi(PREFIX, seed) for seed in (1, 2, 3)]
    mean = dict(types.named_arrays(combine.mean(phis)))
    each = [dict(types.named_arrays(phi)) for phi in phis]
    assert len(mean) == 6
    for name, array in mean.items():
        expected = (each[0][name] + each[1][name] + each[2][name]) / 3
        np.testing.assert_allclose(array, expected, rtol=1e-5)


@pytest.mark.parametrize("how", ["mean", "concatenate"])
@pytest.mark.parametrize("spec", [PREFIX, LORA], ids=["prefix", "lora"])
def test_a_combined_phi_says_its_own_sizes_and_survives_a_file(tmp_path, spec, how):
    phi = combined([random_phi(spec, s) for s in (1, 2)], header(spec), how)
    phi.save(tmp_path / "phi.safetensors")
    again = TaskPhi.load(tmp_path / "phi.safetensors", TINY.sites, "a" * 64)
    if spec == LORA:
        assert (again.header.spec.rank, again.header.spec.scale) == (4, LORA.scale)
    else:
        assert again.header.spec.length == (3 if how == "mean" else 6)


def test_a_prefix_that_cross_attention_shares_is_stored_once(tmp_path):
    spec = PrefixSpec(3, cross_attention="share_decoder")
    own = random_phi(spec, 1)
    shared = types.StackPhi(own.decoder.self_attention, own.decoder.self_attention)
    phi = types.Phi(own.encoder, shared)
    TaskPhi(phi, header(spec)).save(tmp_path / "phi")
    again, _ = load_phi(tmp_path / "phi", TINY.sites)
    for part in ("keys", "values"):
        np.testing.assert_array_equal(
            getattr(again.decoder.cross_attention.prefix, part),
            getattr(own.decoder.self_attention.prefix, part),
        )


def test_different_phi_side_by_side_are_held_once():
    one, two = (TaskPhi(random_phi(PREFIX, s), header(PREFIX)) for s in (1, 2))
    places, batch = side_by_side([two, one, two, two])
    assert places == [0, 1, 0, 0] and types.batch_size(batch) == 2
    assert isinstance(batch.encoder.self_attention.prefix.keys, np.ndarray)
    on_device = combine.stack([one.phi, combine.take(batch, jnp.array([0]))])
    assert types.batch_size(on_device) == 2


def test_what_does_not_combine_is_refused(tmp_path):
    with pytest.raises(UserError, match="no φ"):
        combine.stack([])
    with pytest.raises(UserError, match="different shapes"):
        combine.stack([random_phi(PREFIX, 1), random_phi(LORA, 1)])
    longer = random_phi(PrefixSpec(5, cross_attention="own"), 1)
    with pytest.raises(UserError, match="different shapes"):
        combine.stack([random_phi(PREFIX, 1), longer])
    assert combine.concatenate([random_phi(PREFIX, 1), longer])
    many = TaskPhi(random_phi(PREFIX, 1, batch=2), header(PREFIX))
    many.save(tmp_path / "many")
    with pytest.raises(UserError, match="holds 2 φ"):
        TaskPhi.load(tmp_path / "many")
