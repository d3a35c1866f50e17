"""In what dtype and precision JAX computes: layers as they are told, decisions in float32 and as exactly as can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger, get_vit
from tokenmerge.spec.shared.vit_parameters import initial_parameters

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy
HIGHEST, DEFAULT = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "num_classes": 5}
MERGING = {
    "tome": ToMeMerging(r=[3]),
    "ats": ATSMerging((9,)),
    "patch_merger": PatchMergerMerging(layer=1, num_tokens_out=4),
    "ltm": LTMMerging(0.5),
}
IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), "float32")


def network(name: str, **options: Any) -> ViTConfig:
    pool = "mean" if name == "patch_merger" else "class"
    return ViTConfig(**SMALL, pool=pool, merging=MERGING.get(name), **options)


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def products(function: Any, *args: Any) -> list[tuple[Any, Any]]:
    """Precision and dtype of every product in a program."""
    found = [each for each in equations(jax.make_jaxpr(function)(*args).jaxpr) if each.primitive.name == "dot_general"]
    precision = [(each.params["precision"] or (None,))[0] for each in found]
    return [(which, each.invars[0].aval.dtype.name) for which, each in zip(precision, found, strict=True)]


# Precision

# Products that decide or that sizes are made of: the LTMs of both blocks make two each for the weights, one for sizes.
EXACT = {"tome": 1, "ats": 1, "patch_merger": 1, "ltm": 6}


@pytest.mark.parametrize("name", EXACT)
def test_layers_obey_and_decisions_do_not(name: str) -> None:
    told = products(get_vit(network(name), backend="jax", precision="bfloat16"), IMAGES)
    with jax.default_matmul_precision("bfloat16"):
        asked = products(get_vit(network(name), backend="jax"), IMAGES)
    assert told == asked
    which = [precision for precision, _ in told]
    assert set(which) == {HIGHEST, DEFAULT}
    assert which.count(HIGHEST) == EXACT[name]


def test_layers_have_the_default_of_jax() -> None:
    assert set(products(get_vit(network("none"), backend="jax"), IMAGES)) == {(None, "float32")}


@pytest.mark.parametrize("name", ["patch_merger", "ltm"])
def test_a_merger_mixes_as_it_is_told(name: str) -> None:
    options: dict[str, Any] = {"num_tokens_out": 3} if name == "patch_merger" else {"compression_ratio": 0.5}
    x = jax.ShapeDtypeStruct((2, 9, 8), "float32")

    def exact(**more: Any) -> int:
        found = products(get_merger(name, backend="jax", dim=8, **options, **more), x)
        return [precision for precision, _ in found].count(HIGHEST)

    assert exact(precision=jax.lax.Precision.DEFAULT) == exact() - 1
    with jax.default_matmul_precision("tensorfloat32"):
        assert exact() == exact(precision="tensorfloat32")


# Dtypes


@pytest.mark.parametrize("name", ["none", *EXACT])
def test_layers_compute_in_a_dtype_and_decisions_in_float32(name: str) -> None:
    model = get_vit(network(name), backend="jax", dtype=jnp.bfloat16)
    out = jax.eval_shape(model, IMAGES)
    assert (out.logits.dtype, out.tokens.dtype) == ("bfloat16", "bfloat16")
    assert out.size is None or out.size.dtype == "float32"
    assert {value.dtype for value in model.params().values()} == {np.dtype("float32")}
    layers = [dtype for precision, dtype in products(model, IMAGES) if precision is None]
    assert layers == ["bfloat16"] * len(layers) and len(layers) == 18
    if name in ("patch_merger", "ltm"):
        decisions = [dtype for precision, dtype in products(model, IMAGES) if precision == HIGHEST]
        assert set(decisions) == {"float32"}


def test_a_dtype_is_the_parameters_in_that_dtype() -> None:
    config = network("none")
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    mixed, half = (get_vit(config, backend="jax", **{name: "bfloat16"}) for name in ("dtype", "param_dtype"))
    assert {value[...].dtype.name for value in half.named().values()} == {"bfloat16"}
    assert (mixed(images).logits == half(images).logits).all()  # norms are 1 and 0, which bfloat16 has


def test_parameters_that_are_loaded_get_their_dtype() -> None:
    config = network("none")
    model = get_vit(config, backend="jax", param_dtype="bfloat16")
    model.load_params(initial_parameters(config, 3))
    assert {value[...].dtype.name for value in model.named().values()} == {"bfloat16"}
    merger = get_merger("patch_merger", backend="jax", dim=4, num_tokens_out=2, param_dtype="float16", dtype="bfloat16")
    merger.load_params({name: value.astype(np.float32) for name, value in merger.params().items()})
    assert {value.dtype.name for value in merger.params().values()} == {"float16"}
    assert merger(jnp.ones((1, 3, 4))).tokens.dtype == "bfloat16"


def test_gradients_have_the_dtype_of_the_parameters() -> None:
    model = get_vit(network("tome"), backend="jax", dtype="bfloat16")
    gradient = jax.eval_shape(nnx.grad(lambda model, images: model(images).logits.sum()), model, IMAGES)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


def test_linen_takes_the_same() -> None:
    from tokenmerge.backends.jax import linen

    images = jnp.ones((1, 16, 16, 3))
    options: dict[str, Any] = {"dtype": "bfloat16", "param_dtype": "float16", "precision": "bfloat16", "remat": True}
    module = linen.ViT(network("tome"), **options)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    assert {value.dtype.name for value in variables["params"].values()} == {"float16"}
    found = products(module.apply, variables, images)
    assert set(found) == {(DEFAULT, "bfloat16"), (HIGHEST, "float32")}
    merger = linen.PatchMerger(4, 2, **{name: value for name, value in options.items() if name != "remat"})
    variables = jax.eval_shape(merger.init, jax.random.key(0), jnp.ones((1, 3, 4)))
    assert {value.dtype.name for value in variables["params"].values()} == {"float16"}
    assert jax.eval_shape(merger.apply, variables, jnp.ones((1, 3, 4))).tokens.dtype == "bfloat16"


# Keys


def test_a_stream_of_parameters_draws_them() -> None:
    config = network("patch_merger")

    def params(**options: Any) -> Any:
        return get_vit(config, backend="jax", **options).params()["blocks.0.merger.queries"]

    one, same, other = (params(rngs=nnx.Rngs(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).all()
    assert (params(rngs=nnx.Rngs(dropout=1)) == initial_parameters(config)["blocks.0.merger.queries"]).all()
    queries = [
        get_merger("patch_merger", backend="jax", dim=4, num_tokens_out=2, rngs=nnx.Rngs(params=seed)).params()
        for seed in (1, 1, 2)
    ]
    assert (queries[0]["queries"] == queries[1]["queries"]).all()
    assert (queries[0]["queries"] != queries[2]["queries"]).all()


def test_parameters_are_made_where_a_compiled_function_puts_them() -> None:
    made = nnx.eval_shape(lambda: get_vit(network("tome"), backend="jax", rngs=nnx.Rngs(0)))
    assert made.named()["head.weight"].shape == (5, 8)


# Blocks computed again


def test_remat_keeps_the_numbers_and_is_there_for_every_block() -> None:
    from tokenmerge.backends.jax.vit import vit

    config = network("tome", dropout=0.5)
    images, key = jax.random.normal(jax.random.key(0), (2, 16, 16, 3)), jax.random.key(1)
    params = {name: jnp.asarray(value) for name, value in initial_parameters(config).items()}

    def computed_again(remat: bool) -> int:  # attention always is
        program = jax.make_jaxpr(lambda params: vit(images, params, config, key, remat=remat).logits)(params)
        return sum(each.primitive.name in ("checkpoint", "remat", "remat2") for each in equations(program.jaxpr))

    assert computed_again(True) - computed_again(False) == config.depth
    run = jax.jit(vit, static_argnames=("config", "remat"))
    plain, again = (run(images, params, config, key, remat=remat) for remat in (False, True))
    assert (plain.logits == again.logits).all()
    assert (plain.plan.assignment == again.plan.assignment).all()


# Bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dtype": "int8"}, "^vit: `dtype` must be one of .*, got 'int8'"),
        ({"param_dtype": 7}, "^vit: `param_dtype` must be one of .*, got 7"),
        ({"precision": "low"}, "^vit: `precision` must be a precision of jax.lax.dot or None, got 'low'"),
        ({"remat": 1}, "^vit: `remat` must be True or False, got 1"),
        ({"remats": True}, "^get_vit: `remats` must be an option of .*did you mean 'remat'"),
    ],
)
def test_bad_options_of_a_network(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        get_vit(network("none"), backend="jax", **options)


def test_options_of_jax_are_options_of_jax() -> None:
    with pytest.raises(TypeError, match=r"^get_vit: `dtype` must be an option of 'seed', got an unknown name"):
        get_vit(network("none"), backend="numpy", dtype="float32")
    with pytest.raises(TypeError, match=r"^ltm: `dtype` must be an option of .*, got an unknown name"):
        get_merger("ltm", backend="numpy", dim=4, compression_ratio=0.5, dtype="float32")
    with pytest.raises(TypeError, match=r"^tome: `precision` must be an option of .*, got an unknown name"):
        get_merger("tome", backend="jax", r=2, precision="high")


def test_nnx_tabulates_a_network_that_merges() -> None:
    model = get_vit(network("tome"), backend="jax")
    table = nnx.tabulate(model, jnp.ones((1, 16, 16, 3)))
    assert "block 0" in table and "assignment" in table
