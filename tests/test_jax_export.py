"""One artifact of every merger and every network, for any batch and any platform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger
from tokenmerge.spec.shared.vit_parameters import initial_parameters

jax = pytest.importorskip("jax")
jnp = jax.numpy
PLATFORMS = ("cpu", "cuda", "tpu")

MERGERS: dict[str, dict[str, Any]] = {
    "tome": {"r": 3, "protected": 1},
    "tome kth": {"matching": "kth", "k": 3},
    "ats": {"max_tokens": 4},
    "patch_merger": {"dim": 8, "num_tokens_out": 3},
    "ltm": {"dim": 8, "compression_ratio": 0.5},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "none": {},
    "tome": {"merging": ToMeMerging(r=4)},
    "ats": {"merging": ATSMerging((9, 4))},
    "patch_merger": {"merging": PatchMergerMerging(1, 4), "pool": "mean"},
    "ltm": {"merging": LTMMerging(0.5)},
}


def served(function: Any, inputs: Any, fixed: Any = ()) -> Any:
    """The function, exported with the first axis of every input open, written and read again."""
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    opened = jax.tree.map(lambda value: jax.ShapeDtypeStruct((batch, *value.shape[1:]), value.dtype), inputs)
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(opened, *fixed)
    return export.deserialize(exported.serialize())


def same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MERGERS)
def test_a_merger_is_exported_for_any_batch(name: str, masked: bool) -> None:
    merger, rng = get_merger(name.split()[0], backend="jax", **MERGERS[name]), np.random.default_rng(0)

    def inputs(batch: int) -> dict[str, Any]:
        arrays = {"x": rng.standard_normal((batch, 11, 8), np.float32)}
        if masked:
            arrays |= {"mask": rng.random((batch, 11)) < 0.7, "size": np.ones((batch, 11), np.float32)}
        if name == "ats":
            arrays |= {"attn": rng.random((batch, 2, 11), np.float32), "value": np.ones((batch, 2, 11, 4), np.float32)}
        return {key: jnp.asarray(value) for key, value in arrays.items()}

    def run(inputs: Any) -> Any:
        out = merger(**inputs)
        return out, out.plan.unmerge(out.tokens)

    artifact = served(run, inputs(2))
    for batch in (1, 3):
        given = inputs(batch)
        same(artifact.call(given), jax.jit(run)(given))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_exported_for_any_batch(name: str) -> None:
    from tokenmerge.backends.jax.vit import vit

    config = ViTConfig(image_size=16, patch_size=4, dim=8, depth=2, heads=2, num_classes=5, **NETWORKS[name])
    params = {name: jnp.asarray(value) for name, value in initial_parameters(config).items()}

    def run(images: Any, params: Any) -> Any:
        return vit(images, params, config)

    artifact = served(run, jnp.zeros((2, 16, 16, 3)), (params,))
    assert artifact.platforms == PLATFORMS
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 16, 3), np.float32))
    out = artifact.call(images, params)
    assert out.plan.unmerge(out.tokens).shape == (3, 17, 8)
    same(out, jax.jit(run)(images, params))
