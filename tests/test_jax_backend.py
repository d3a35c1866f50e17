"""What only JAX promises: one compilation per shape, pytrees, modules of Flax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tokenmerge import get_merger
from tokenmerge.backends.jax.precision import softmax
from tokenmerge.backends.jax.tome import plan

OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3, "protected": 1},
    "ats": {"max_tokens": 4},
    "patch_merger": {"dim": 8, "num_tokens_out": 3},
    "ltm": {"dim": 8, "compression_ratio": 0.5, "protected": 1},
}


def arguments(name: str, seed: int = 0, n: int = 11) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    inputs: dict[str, Any] = {"x": jnp.asarray(rng.standard_normal((2, n, 8), np.float32)), "size": jnp.ones((2, n))}
    inputs["mask"] = jnp.arange(n) < jnp.array([[n - 3], [n]])
    if name == "ats":
        inputs["attn"] = jnp.asarray(rng.random((2, 2, n, n), np.float32))
        inputs["value"] = jnp.asarray(rng.standard_normal((2, 2, n, 4), np.float32))
    return inputs


@pytest.mark.parametrize("name", OPTIONS)
def test_one_compilation_per_shape(name: str) -> None:
    merger, traces = get_merger(name, backend="jax", **OPTIONS[name]), []

    @jax.jit
    def run(inputs: dict[str, Any]) -> Any:
        traces.append(inputs["x"].shape)
        out = merger(**inputs)
        return out, out.plan.unmerge(out.tokens)

    for seed in range(3):
        run(arguments(name, seed))
    assert len(traces) == 1
    run(arguments(name, n=12))
    assert len(traces) == 2


@pytest.mark.parametrize("name", OPTIONS)
def test_an_eager_second_call_compiles_nothing(name: str) -> None:
    merger, compiled = get_merger(name, backend="jax", **OPTIONS[name]), []
    first, second = arguments(name, 0), arguments(name, 1)
    merger(**first)

    def listen(event: str, duration: float, **_: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    merger(**second)
    assert compiled == []
    jax.jit(lambda x: x * 3.25 + float(len(name)))(jnp.ones(7))  # the listener does hear a compilation
    assert compiled != []


@pytest.mark.parametrize("name", OPTIONS)
def test_a_plan_is_a_pytree(name: str) -> None:
    merger, inputs = get_merger(name, backend="jax", **OPTIONS[name]), arguments(name)
    out = jax.jit(lambda inputs: merger(**inputs))(inputs)
    leaves, structure = jax.tree.flatten(out.plan)
    again = jax.tree.unflatten(structure, leaves)
    assert again.num_tokens_in == 11
    unmerge = jax.jit(lambda plan, y: plan.unmerge(y))
    np.testing.assert_array_equal(unmerge(again, out.tokens), unmerge(out.plan, out.tokens))


def test_modules_train_with_nnx() -> None:
    merger = get_merger("patch_merger", backend="jax", **OPTIONS["patch_merger"])
    assert isinstance(merger, nnx.Module)
    x = arguments("patch_merger")["x"]
    gradient = nnx.grad(lambda merger: jnp.square(merger(x).tokens).sum())(merger)
    found = dict(nnx.to_flat_state(gradient))
    assert {path[-1] for path in found} == {"queries", "scale", "bias"}
    assert all(np.isfinite(value[...]).all() and np.any(value[...] != 0) for value in found.values())


def test_hard_decisions_have_no_gradient_and_tokens_do() -> None:
    merger, inputs = get_merger("tome", backend="jax", r=3), arguments("tome")
    x, metric = inputs.pop("x"), jnp.asarray(np.random.default_rng(3).standard_normal((2, 11, 4), np.float32))
    by_x, by_metric = jax.grad(lambda x, m: merger(x, metric=m, **inputs).tokens.sum(), argnums=(0, 1))(x, metric)
    assert np.all(by_metric == 0)
    assert np.all((by_x != 0).any(axis=2) == inputs["mask"])


def test_a_softmax_has_no_branch_that_would_split_its_kernel() -> None:
    logits = jnp.array([[0.0, 1.0], [-jnp.inf, -jnp.inf], [-jnp.inf, 3.0], [jnp.nan, 1.0]])
    assert "select_n" not in str(jax.make_jaxpr(softmax)(logits))
    np.testing.assert_array_equal(softmax(logits)[0], jax.nn.softmax(logits[0]))
    np.testing.assert_array_equal(softmax(logits)[1:], [[0, 0], [0, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(jax.grad(lambda row: softmax(row)[0])(logits[1]), [0, 0])
    assert softmax(jnp.zeros((2, 0))).shape == (2, 0)


def test_a_block_reduces_no_integers() -> None:
    """XLA compiles several loops for a sum of integers on the CPU, and none for one of floating-point numbers."""
    metric = jax.ShapeDtypeStruct((2, 197, 8), "float32")
    program = jax.jit(lambda metric: plan(metric, r=16, protected=1).assignment).lower(metric).as_text()
    sums = [line for line in program.splitlines() if "stablehlo.reduce(" in line or "reduce_window" in line]
    assert sums and all("i32" not in line for line in sums)
