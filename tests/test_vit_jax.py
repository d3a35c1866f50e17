"""The JAX network against the spec; what Flax adds: compilation, gradients, dropout, NNX and Linen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from vit_cases import BASE, CASES, Array, config, images, random_params, reference

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger, get_vit
from tokenmerge.spec.shared.vit_parameters import initial_parameters, is_merger_parameter, parameter_shapes

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy

SMALL = BASE | {"depth": 2, "dim": 8}
LEARNED = "tome, patch_merger, tome"


@pytest.fixture(autouse=True)
def quick_to_compile() -> Iterator[None]:
    """What takes the time here is compiling, and nothing is run twice."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def double() -> Iterator[None]:
    from tokenmerge.backends.jax import context

    with context("float64"):
        yield


def arrays(params: dict[str, Array]) -> dict[str, Any]:
    return {name: jnp.asarray(value) for name, value in params.items()}


def float32(network: ViTConfig) -> tuple[Any, dict[str, Any]]:
    """Images and parameters."""
    params = {name: value.astype(np.float32) for name, value in random_params(network).items()}
    return jnp.asarray(images(network), jnp.float32), arrays(params)


# The spec


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", CASES)
def test_float64_agrees_with_the_spec(case: str) -> None:
    from tokenmerge.backends.jax.vit import vit

    network, params, given, expected = reference(case)
    compiled = jax.jit(vit, static_argnames="config")
    assert expected.differences(compiled(jnp.asarray(given), arrays(params), config=network)) == []


@pytest.mark.usefixtures("double")
def test_the_module_agrees_with_the_spec() -> None:
    network, params, given, expected = reference("tome, patch_merger, tome")
    model = get_vit(network, backend="jax")
    model.load_params(params)
    assert expected.differences(model(given)) == []  # NumPy arrays are welcome, too
    assert {name: value.dtype for name, value in model.params().items()} == dict.fromkeys(params, np.dtype(float))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_and_an_empty_batch(case: str, dtype: str) -> None:
    from tokenmerge.backends.jax.vit import vit

    network = config(case)
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in parameter_shapes(network).items()}
    given = jax.ShapeDtypeStruct(images(network, batch=0).shape, "float32")
    out = jax.eval_shape(lambda given, params: vit(given, params, network), given, params)
    expected = get_vit(network, backend="spec")(images(network, batch=0))
    assert (out.logits.shape, out.tokens.shape) == (expected.logits.shape, expected.tokens.shape)
    assert (out.logits.dtype, out.tokens.dtype) == (dtype, dtype)
    assert out.size is None or out.size.dtype == "float32"
    assert (out.size is None, out.mask is None) == (expected.size is None, expected.mask is None)
    for ours, theirs in zip(out.plans, expected.plans, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert (ours.num_tokens_in, ours.num_tokens_out) == (theirs.num_tokens_in, theirs.num_tokens_out)


# Parameters


def test_params_are_the_same_in_every_backend() -> None:
    for case in (LEARNED, "tome everything", "ltm mean", "pre norm"):
        first = initial_parameters(config(case), 3)
        model = get_vit(config(case), backend="jax", seed=3)
        got = model.params()
        assert {name: value.shape for name, value in got.items()} == {name: v.shape for name, v in first.items()}
        assert all((got[name] == value).all() for name, value in first.items())
        assert model.blocks[1].attn.qkv.weight[...].shape == (48, 16)


def test_a_checkpoint_without_the_merger_keeps_its_parameters() -> None:
    model = get_vit(config(LEARNED), backend="jax")
    before, params = model.params(), random_params(config(LEARNED))
    model.load_params({name: value for name, value in params.items() if not is_merger_parameter(name)})
    after = model.params()
    assert all((after[name] == (before if is_merger_parameter(name) else params)[name]).all() for name in params)


def test_a_state_dict_of_torch_in_bfloat16_stays_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    model = get_vit(config("plain"), backend="jax")
    given = {name: torch.tensor(value).bfloat16() for name, value in model.params().items()}
    model.load_params(given)
    for name, value in model.named().items():
        assert value[...].dtype == jnp.bfloat16
        assert (np.asarray(value[...], np.float32) == given[name].float().numpy()).all()


# Compilation


def test_one_compilation_per_shape() -> None:
    network = ViTConfig(**SMALL | {"merging": ToMeMerging(r=[3])})
    model, traces = get_vit(network, backend="jax"), []

    @nnx.jit
    def run(model: Any, images: Any) -> Any:
        traces.append(images.shape)
        out = model(images)
        return out, out.plan.unmerge(out.tokens)

    for seed in range(3):
        run(model, jnp.asarray(images(network, seed), jnp.float32))
    assert len(traces) == 1
    run(model, jnp.asarray(images(network, batch=2), jnp.float32))
    assert len(traces) == 2


@pytest.mark.usefixtures("double")
def test_vmap_is_a_loop() -> None:
    network, params, given, expected = reference("plain")
    model = get_vit(network, backend="jax")
    model.load_params(params)
    mapped = jax.vmap(model)(jnp.asarray(given)[:, None])
    assert mapped.logits.shape == (3, 1, 5)
    assert (np.abs(mapped.logits[:, 0] - expected.parts["logits"]) <= expected.budget["logits"]).all()


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of everything that a program computes, in the programs inside it, too."""
    for equation in jaxpr.eqns:
        yield from (tuple(variable.aval.shape) for variable in equation.outvars if hasattr(variable.aval, "shape"))
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes(inner)


@pytest.mark.parametrize("merging", [None, ToMeMerging(r=8), ATSMerging((128, 64))])
def test_the_attention_matrix_is_never_whole(merging: Any) -> None:
    from tokenmerge.backends.jax.vit import vit

    network = ViTConfig(**SMALL | {"image_size": 64, "merging": merging})
    given, params = float32(network)

    def loss(params: Any) -> Any:
        return vit(given, params, network).logits.sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss))(params)
    found = {shape[-2:] for shape in shapes(program.jaxpr) if len(shape) > 3}
    assert (257, 257) not in found
    assert (1, 257) in found if isinstance(merging, ATSMerging) else (129, 257) in found  # so the search can fail


@pytest.mark.usefixtures("double")
def test_blocks_of_queries_are_the_same_attention() -> None:
    from tokenmerge.backends.jax.attention import attention
    from tokenmerge.backends.jax.blockwise import blockwise_attention

    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.standard_normal((2, 2, n, 4), np.float32)) for n in (300, 20, 20))
    size, mask = jnp.asarray(rng.integers(1, 9, (2, 20)), jnp.float32), jnp.asarray(rng.random((2, 20)) < 0.7)
    single = attention(query, key, value, size=size, mask=mask)
    query, key, value, size = (each.astype(float) for each in (query, key, value, size))
    whole = attention(query, key, value, size=size, mask=mask)
    blocks = blockwise_attention(query, key, value, size=size, mask=mask)
    assert (jnp.abs(blocks - whole).max() / np.finfo(float).eps) <= jnp.abs(single - whole).max() / 2**-23


# Training

GRADIENTS: dict[str, dict[str, Any]] = {
    "ltm, tome": {"register_tokens": 1, "layer_scale": 0.5, "merging": {0: LTMMerging(0.5), 1: ToMeMerging(r=2)}},
    "ats, patch_merger": {"pool": "mean", "merging": {0: ATSMerging((9,)), 1: PatchMergerMerging(None, 4)}},
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = ViTConfig(**SMALL | GRADIENTS[name])
    given, params = float32(network)
    model, wanted = get_vit(network, backend="jax"), np.random.default_rng(0).standard_normal((3, 5))
    model.load_params(params)

    @nnx.jit
    @nnx.value_and_grad
    def loss(model: Any, images: Any) -> Any:
        return (model(images).logits * wanted).sum()

    gradients = dict(nnx.to_flat_state(loss(model, given)[1]))
    assert {".".join(path) for path in gradients} == params.keys()
    for path, gradient in gradients.items():
        assert np.isfinite(gradient[...]).all(), path
        assert (gradient[...] != 0).any(), path


@pytest.mark.parametrize("rate", ["dropout", "attn_dropout", "emb_dropout", "drop_path"])
def test_dropout_acts_in_training_only(rate: str) -> None:
    from tokenmerge.backends.jax.vit import vit

    network = ViTConfig(**SMALL)
    given, params = float32(network)
    dropping = ViTConfig(**SMALL | {rate: 0.5})
    plain, off = vit(given, params, network).logits, vit(given, params, dropping).logits
    one, other, again = (vit(given, params, dropping, jax.random.key(seed)).logits for seed in (0, 1, 0))
    assert (plain == off).all()
    assert (one != plain).any()
    assert (one != other).any()
    assert (one == again).all()
    assert (vit(given, params, network, jax.random.key(0)).logits == plain).all()


def test_dropout_keeps_the_mean_and_drops_paths_of_whole_samples() -> None:
    from tokenmerge.backends.jax.dropout import Dropout

    drop, x = Dropout(jax.random.key(0)), jnp.ones((64, 3, 4))
    path = drop.path(x, 0.75)
    assert set(np.unique(path)) == {0.0, 4.0}
    assert (path == path[:, :1, :1]).all()
    entries = drop(x, 0.75)
    assert set(np.unique(entries)) == {0.0, 4.0}
    assert (entries != entries[:, :1, :1]).any()
    assert (drop(x, 0.75) != entries).any()


def test_train_and_eval() -> None:
    network = ViTConfig(**SMALL | {"dropout": 0.5, "drop_path": 0.5})
    given, params = float32(network)
    model = get_vit(network, backend="jax")
    model.load_params(params)
    assert (model(given).logits != model(given).logits).any()  # as in timm, a network starts in training mode
    model.eval()
    assert (model(given).logits == model(given).logits).all()
    model.train()
    assert (model(given).logits != model(given).logits).any()


def test_rngs_are_the_users() -> None:
    from tokenmerge.backends.jax import ViT

    network = ViTConfig(**SMALL | {"dropout": 0.5, "drop_path": 0.5})
    given, _ = float32(network)
    one, other, same = (ViT(network, rngs=nnx.Rngs(dropout=seed))(given).logits for seed in (1, 2, 1))
    assert (one != other).any()
    assert (one == same).all()


# Linen, and the networks that people know from Flax

KNOWN: dict[str, dict[str, Any]] = {
    "ats": {"depth": 6, "merging": ATSMerging((256, 128, 64, 32, 16, 8))},
    "patch_merger": {"depth": 12, "pool": "mean", "merging": PatchMergerMerging(6, 8)},
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_networks_in_nnx_and_linen(name: str) -> None:
    from tokenmerge.backends.jax import linen

    sizes = {"image_size": 256, "patch_size": 32 if name == "patch_merger" else 16, "dim": 8, "heads": 2}
    network = ViTConfig(**sizes, num_classes=5, **KNOWN[name])
    given = jnp.asarray(images(network, batch=1), jnp.float32)
    module = linen.ViT(network)
    variables = jax.jit(module.init)(jax.random.key(0), given)
    out = jax.jit(module.apply)(variables, given)
    assert out.logits.shape == (1, 5)
    assert out.tokens.shape == (1, 9 if name == "ats" else 8, 8)
    model = get_vit(network, backend="jax")
    model.load_params(variables["params"])
    assert jax.eval_shape(model, given).tokens.shape == out.tokens.shape


def test_linen_starts_as_the_others() -> None:
    from tokenmerge.backends.jax import linen

    for case in (LEARNED, "tome everything", "ltm mean"):
        network, first = config(case), initial_parameters(config(case))
        module, given = linen.ViT(network), jnp.asarray(images(network), jnp.float32)
        params = jax.eval_shape(module.init, jax.random.key(0), given)["params"]
        assert {name: value.shape for name, value in params.items()} == {name: v.shape for name, v in first.items()}
        for name, value in first.items():
            drawn = np.asarray(linen.initializer(network, name)(jax.random.key(0), value.shape))
            if (value == value.flat[0]).all():
                assert (drawn == value).all(), name
            else:
                assert 0.5 < drawn.std() / value.std() < 2, name


def test_linen_patch_merger_is_trainable() -> None:
    from tokenmerge.backends.jax import linen

    merger, x = linen.PatchMerger(dim=1024, num_tokens_out=8), jnp.ones((4, 256, 1024)).at[:, 3, :7].set(2.0)
    variables = merger.init(jax.random.key(0), x)
    assert merger.apply(variables, x).tokens.shape == (4, 8, 1024)
    gradient = jax.grad(lambda variables: jnp.square(merger.apply(variables, x).tokens[:, :, :9]).sum())(variables)
    assert gradient["params"]["queries"].shape == (8, 1024)
    assert jnp.isfinite(gradient["params"]["queries"]).all()
    assert (gradient["params"]["queries"] != 0).any()


def test_mergers_of_linen_are_those_of_nnx() -> None:
    from tokenmerge.backends.jax import linen

    rng = np.random.default_rng(0)
    x, value = jnp.asarray(rng.standard_normal((2, 9, 8)), jnp.float32), jnp.ones((2, 2, 9, 4))
    given: dict[str, Any] = {"mask": jnp.arange(9) < jnp.array([[6], [9]]), "size": jnp.full((2, 9), 2.0)}
    weight = jnp.linspace(-1, 1, 8)
    merger = get_merger("ltm", backend="jax", dim=8, compression_ratio=0.5, protected=1)
    merger.load_params({"weight": np.asarray(weight)})
    module = linen.LTM(dim=8, compression_ratio=0.5, protected=1)
    one, other = module.apply({"params": {"weight": weight}}, x, **given), merger(x, **given)
    assert all((left == right).all() for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    given |= {"attn": jnp.asarray(rng.random((2, 2, 9)), jnp.float32), "value": value}
    one = linen.ATS(max_tokens=4).apply({}, x, **given)
    other = get_merger("ats", backend="jax", max_tokens=4)(x, **given)
    assert all((left == right).all() for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_linen_and_nnx_are_the_same() -> None:
    from tokenmerge.backends.jax import linen

    network = ViTConfig(**SMALL | {"merging": ToMeMerging(r=[3])})
    given, params = float32(network)
    model = get_vit(network, backend="jax")
    model.load_params(params)
    assert (jax.jit(linen.ViT(network).apply)({"params": params}, given).logits == model(given).logits).all()


def test_linen_drops_in_training_only() -> None:
    from tokenmerge.backends.jax import linen

    network = ViTConfig(**SMALL | {"dropout": 0.5})
    given, params = float32(network)
    apply = linen.ViT(network).apply
    plain = apply({"params": params}, given).logits
    dropped = apply({"params": params}, given, train=True, rngs={"dropout": jax.random.key(0)}).logits
    assert (plain != dropped).any()


# Bad input


def test_an_image_of_the_wrong_size_is_refused() -> None:
    from tokenmerge.backends.jax import linen

    sentence = r"^vit: `images` must have .*16.*got \(1, 20, 16, 3\)"
    with pytest.raises(ValueError, match=sentence):
        get_vit(config("plain"), backend="jax")(jnp.zeros((1, 20, 16, 3)))
    with pytest.raises(ValueError, match=sentence):
        linen.ViT(config("plain")).init(jax.random.key(0), jnp.zeros((1, 20, 16, 3)))


def test_an_image_that_is_no_float_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^vit: `images` must be floating point, got "):
        get_vit(config("plain"), backend="jax")(jnp.zeros((1, 16, 16, 3), jnp.uint8))


def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = get_vit(config("plain"), backend="jax")
    before = model.params()
    bad = model.params() | {"head.bias": np.zeros(7), "head_dist.bias": np.zeros(5)}
    del bad["norm.weight"]
    bad["pos_embed"] += 1
    with pytest.raises(ValueError, match=r"^vit: `params` must fit the configuration, got ") as error:
        model.load_params(bad)
    for words in ("missing: norm.weight", "unexpected: head_dist.bias", "wrong shape: head.bias (7,) instead of (5,)"):
        assert words in str(error.value)
    assert all((value == before[name]).all() for name, value in model.params().items())


def test_a_contradiction_shows_when_the_network_is_made() -> None:
    with pytest.raises(ValueError, match="ViTConfig: `pool` must be 'mean' with PatchMergerMerging"):
        get_vit(ViTConfig(merging=PatchMergerMerging()), backend="jax")
