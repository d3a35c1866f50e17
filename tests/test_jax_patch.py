"""Token merging in other people's JAX models: what they compute is what our own network computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokenmerge import LTMMerging, ToMeMerging, ViTConfig, patch
from tokenmerge.spec.shared.vit_parameters import initial_parameters

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy

OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3},
    "ats": {"max_tokens": (9, 5)},
    "patch_merger": {"num_tokens_out": 4, "layer": 1},
    "ltm": {"compression_ratio": 0.5},
}


def network(pool: str = "class") -> Any:
    from tokenmerge.backends.jax.patching.example import VisionTransformer

    return VisionTransformer(pool=pool, rngs=nnx.Rngs(0))


def images(batch: int = 3) -> Any:
    return jax.random.normal(jax.random.key(1), (batch, 16, 16, 3))


def pool_for(name: str) -> str:
    return "mean" if name == "patch_merger" else "class"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_flax_network_merges_under_every_transformation(name: str) -> None:
    model = network(pool_for(name))
    before = jax.jit(model)(images())
    original, blocks = type(model), [type(block) for block in model.encoder.layers]
    handle = patch(model, name, **OPTIONS[name])
    logits, merging = jax.jit(handle)(images())
    assert (logits != before).any()
    assert all(plan is not None for plan in merging.plans[:1])
    graph, state = nnx.split(model)
    compiled, again = jax.jit(lambda state, x: handle.__class__.__call__(view(graph, state), x))(state, images())
    assert close(compiled, logits)
    assert jax.tree.structure(again) == jax.tree.structure(merging)
    mapped = jax.jit(jax.vmap(lambda x: model(x[None])[0]))(images())
    assert close(mapped, logits)
    gradient = nnx.jit(nnx.grad(lambda model: jnp.square(model(images())).sum()))(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    handle.remove()
    assert type(model) is original
    assert [type(block) for block in model.encoder.layers] == blocks
    assert (jax.jit(model)(images()) == before).all()


def view(graph: Any, state: Any) -> Any:
    from tokenmerge.backends.jax.patching.flax import Handle

    return Handle(nnx.merge(graph, state), object, [])


def bound(values: Any) -> float:
    """Half of the digits: the same decisions, in another order of sums."""
    return float(np.sqrt(np.finfo(values.dtype).eps))


def close(got: Any, want: Any) -> bool:
    """Whether the same was computed in another order of sums."""
    return bool(np.abs(np.asarray(got) - np.asarray(want)).max() <= bound(want) * np.abs(np.asarray(want)).max())


def test_r_0_is_the_model_to_the_last_bit() -> None:
    model = network()
    before = jax.jit(model)(images())
    with patch(model, "tome", r=0):
        assert (jax.jit(model)(images()) == before).all()


def ours(model: Any, merging: Any, pool: str) -> tuple[ViTConfig, dict[str, Any]]:
    """The same network as one of ours."""
    sizes = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "num_classes": 5}
    config = ViTConfig(**sizes, pool=pool, fc_norm=pool == "mean", merging=merging)
    params = {
        "cls_token": model.class_token[...],
        "pos_embed": model.positions[...],
        "patch_embed.proj.weight": model.patches.kernel[...].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": model.patches.bias[...],
        "head.weight": model.head.kernel[...].T,
        "head.bias": model.head.bias[...],
    }
    last = "fc_norm" if pool == "mean" else "norm"
    params |= {f"{last}.weight": model.norm.scale[...], f"{last}.bias": model.norm.bias[...]}
    for index, block in enumerate(model.encoder.layers):
        attn, mlp, name = block.attn, block.mlp.layers, f"blocks.{index}."
        parts = (attn.query, attn.key, attn.value)
        params[name + "attn.qkv.weight"] = jnp.concatenate([part.kernel[...].reshape(16, 16).T for part in parts])
        params[name + "attn.qkv.bias"] = jnp.concatenate([part.bias[...].ravel() for part in parts])
        params[name + "attn.proj.weight"] = attn.out.kernel[...].reshape(16, 16).T
        params[name + "attn.proj.bias"] = attn.out.bias[...]
        for norm in ("norm1", "norm2"):
            params[name + norm + ".weight"] = getattr(block, norm).scale[...]
            params[name + norm + ".bias"] = getattr(block, norm).bias[...]
        for linear, layer in (("fc1", mlp[0]), ("fc2", mlp[2])):
            params[name + f"mlp.{linear}.weight"] = layer.kernel[...].T
            params[name + f"mlp.{linear}.bias"] = layer.bias[...]
    return config, params


def test_a_patched_flax_network_is_ours() -> None:
    from tokenmerge.backends.jax.vit import vit

    model = network()
    config, params = ours(model, ToMeMerging(r=3), "class")
    assert params.keys() == initial_parameters(config).keys()
    with patch(model, "tome", r=3) as handle:
        logits, merging = jax.jit(handle)(images())
    out = jax.jit(vit, static_argnames="config")(images(), params, config=config)
    for plan, other in zip(merging.plans, out.plans, strict=True):
        assert (plan.assignment == other.assignment).all()
    # flax's GELU is the one with tanh
    assert float(jnp.abs(logits - out.logits).max()) < bound(logits) * 10 * float(jnp.abs(logits).max())


AROUND = {
    "tome, mlp": ("tome", {"r": 3, "around": "mlp"}, ToMeMerging(r=3, around="mlp")),
    "tome, block": ("tome", {"r": 3, "around": "block"}, ToMeMerging(r=3, around="block")),
    "ltm": ("ltm", {"compression_ratio": 0.5}, LTMMerging(0.5)),
    "ltm, block": ("ltm", {"compression_ratio": 0.5, "around": "block"}, LTMMerging(0.5, around="block")),
    "ltm, stream": ("ltm", {"compression_ratio": 0.5, "around": None}, LTMMerging(0.5, around=None)),
}


@pytest.mark.parametrize("case", AROUND)
def test_plans_act_around_a_branch_as_in_ours(case: str) -> None:
    from tokenmerge.backends.jax.vit import vit

    name, options, merging = AROUND[case]
    model = network()
    config, params = ours(model, merging, "class")
    handle = patch(model, name, **options)
    if name == "ltm":
        for index, block in enumerate(model.encoder.layers):
            block.merger.weight[...] = params[f"blocks.{index}.merger.weight"] = jnp.linspace(-1, 1, 16)
    logits, merging = jax.jit(handle)(images())
    out = jax.jit(vit, static_argnames="config")(images(), params, config=config)
    assert merging.around == out.around
    for plan, other in zip(merging.plans, out.plans, strict=True):
        if name == "tome":
            assert (plan.assignment == other.assignment).all()
        else:
            assert close(plan.weights, other.weights)
    # flax's GELU is the one with tanh
    assert float(jnp.abs(logits - out.logits).max()) < bound(logits) * 10 * float(jnp.abs(logits).max())
    handle.remove()


def test_around_is_one_of_the_branches() -> None:
    with pytest.raises(ValueError, match=r"^patch: `around` must be one of 'mlp', 'block', got 'stream'"):
        patch(network(), "tome", r=3, around="stream")


def test_a_mean_over_restored_tokens_weighs_sizes() -> None:
    model = network("mean")
    seen = {}
    with patch(model, "tome", r=3, restore=True) as handle:
        logits, merging = jax.jit(handle)(images())
        assert merging.size.sum(axis=1).tolist() == [17.0] * 3
    with patch(model, "tome", r=3) as handle:
        seen["unweighted"] = jax.jit(handle)(images())[0]
    assert (logits != seen["unweighted"]).any()


def test_a_block_with_the_norm_behind_is_refused_and_nothing_changes() -> None:
    from tokenmerge.backends.jax.patching.example import Block

    class Behind(Block):
        def __call__(self, x: Any) -> Any:
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.mlp(x))

    model = network()
    model.encoder = nnx.Sequential(Behind(16, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"^patch: `model` must have blocks that add .* got Behind"):
        patch(model, "tome", r=3)
    assert type(model.encoder.layers[0]) is Behind


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"^patch: `r` must be given with 'tome', got nothing"):
        patch(network(), "tome")
    with pytest.raises(ValueError, match=r"^patch: `model` must have blocks with attention"):
        patch(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "tome", r=1)
    model = network()
    with patch(model, "tome", r=1), pytest.raises(ValueError, match=r"^patch: `model` must not be patched already"):
        patch(model, "tome", r=1)


# Equinox


def equimo_network(**options: Any) -> Any:
    pytest.importorskip("equimo")
    from equimo.models.vit import VisionTransformer

    chosen = {"global_pool": "token", "reg_tokens": 1, "init_values": 0.5} | options
    return VisionTransformer(16, 3, 16, 4, 2, [2], num_classes=5, key=jax.random.key(0), **chosen)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_equimo_network_merges(name: str, rotary: bool) -> None:
    from tokenmerge.backends.jax import with_plans

    model = equimo_network(
        use_local_pos_embed=rotary,
        use_global_pos_embed=not rotary,
        global_pool="avg" if pool_for(name) == "mean" else "token",
    )
    if rotary and name == "patch_merger":
        with pytest.raises(ValueError, match=r"^patch: `model` must have no rotary positions"):
            patch(model, name, **OPTIONS[name])
        return
    merging_model = patch(model, name, **OPTIONS[name])
    given = jnp.moveaxis(images(), 3, 1)
    run = jax.jit(jax.vmap(lambda image: with_plans(merging_model, image, inference=True)))
    logits, merging = run(given)
    assert logits.shape == (3, 5)
    assert merging.plans[0].unmerge(jnp.ones((3, merging.plans[0].num_tokens_out, 2))).shape == (3, 18, 2)
    plain = jax.jit(jax.vmap(lambda image: model(image, inference=True)))(given)
    assert (plain != logits).any()


@pytest.mark.parametrize("inference", [True, False])
def test_an_equimo_network_with_r_0_is_the_model_to_the_last_bit(inference: bool) -> None:
    model, image = equimo_network(), jnp.moveaxis(images(), 3, 1)[0]
    run = jax.jit(lambda network, image: network(image, inference=inference))
    assert (run(patch(model, "tome", r=0), image) == run(model, image)).all()


def test_an_unmerged_block_of_equimo_is_read_right() -> None:
    from tokenmerge.backends.jax.patching.adapter import Stream, merging_block
    from tokenmerge.backends.jax.patching.equimo import ADAPTER

    block, x = equimo_network(qk_norm=True).blocks[0].blocks[0], jax.random.normal(jax.random.key(3), (7, 16))
    key = jax.random.key(0)
    theirs = block(x, key=key, inference=True)
    ours = merging_block(ADAPTER, block, None, Stream(x[None]), key=key, inference=True).x[0]
    assert float(jnp.abs(theirs - ours).max()) < bound(x) * float(jnp.abs(theirs).max())
