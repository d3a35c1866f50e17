"""The work of each of eight devices, printed as JSON: run as a program, since JAX counts its devices when it starts."""

from __future__ import annotations

import os

# Programs are looked at and not run, so they need no polish. What .ci/run asks for stays.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger
from tokenmerge.backends.jax import compose
from tokenmerge.backends.jax.vit import vit
from tokenmerge.spec.shared.vit_parameters import initial_parameters

BATCH = 64
SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 3, "heads": 8, "num_classes": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "none": {},
    "tome": {"merging": ToMeMerging(r=8)},
    "ats": {"merging": ATSMerging((48, 32, 16))},
    "patch_merger": {"merging": PatchMergerMerging(2, 8), "pool": "mean"},
    "ltm": {"merging": LTMMerging(0.5, around=None)},
}
MERGERS: dict[str, dict[str, Any]] = {
    "tome": {"r": 8, "protected": 1},
    "tome score": {"r": 8, "order": "score"},
    "tome kth": {"matching": "kth", "k": 4},
    "ats": {"max_tokens": 8},
    "patch_merger": {"dim": 64, "num_tokens_out": 8},
    "ltm": {"dim": 64, "compression_ratio": 0.5, "protected": 1},
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)
NUMBERS = re.compile(r"\w+\[([\d,]*)\]")


def collectives(program: Any) -> dict[str, int]:
    """How many numbers go through every kind of collective."""
    found: dict[str, int] = {}
    for result, kind in COLLECTIVE.findall(program.as_text()):
        numbers = sum(int(np.prod([int(n) for n in dims.split(",") if n])) for dims in NUMBERS.findall(result))
        found[kind] = found.get(kind, 0) + numbers
    return found


def work(program: Any) -> float:
    costs = program.cost_analysis()
    return float((costs[0] if isinstance(costs, list) else costs)["flops"])


def entry(function: Callable[..., Any], arguments: Any, lone: float) -> dict[str, Any]:
    program = jax.jit(function).lower(*arguments).compile()
    parts = {spec_of(leaf) for leaf in jax.tree.leaves(program.output_shardings)}
    return {"share": work(program) / lone, "collectives": collectives(program), "outputs": sorted(parts)}


def spec_of(sharding: Any) -> str:
    return str(sharding.spec[0] if len(sharding.spec) else None)


def whole(name: str, shape: tuple[int, ...]) -> P:
    return P()


def fsdp(name: str, shape: tuple[int, ...]) -> P:
    """The first axis that eight devices divide; what is small is on all of them."""
    axis = next((axis for axis, length in enumerate(shape) if length % 8 == 0), None)
    return P() if axis is None or np.prod(shape) < 1024 else P(*(None,) * axis, "data")


def tensor_parallel(name: str, shape: tuple[int, ...]) -> P:
    """Heads and hidden units over the axis "model"."""
    kind = ".".join(name.split(".")[2:])
    into = {"attn.qkv.weight": P(None, None), "mlp.fc1.weight": P("model"), "mlp.fc1.bias": P("model")}
    return (into | {"attn.proj.weight": P(None, "model"), "mlp.fc2.weight": P(None, "model")}).get(kind, P())


LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[str, ...], Any, Any]] = {
    "data parallel": ((8,), ("data",), AxisType.Auto, whole),
    "FSDP": ((8,), ("data",), AxisType.Auto, fsdp),
    "tensor parallel": ((2, 4), ("data", "model"), AxisType.Auto, tensor_parallel),
    "explicit mesh": ((8,), ("data",), AxisType.Explicit, whole),
}


def networks(layout: str) -> dict[str, Any]:
    shape, axes, kind, place = LAYOUTS[layout]
    # a network so wide that what every device of the axis "model" repeats, such as norms, is little beside the products
    sizes = SIZES | ({"dim": 512} if "model" in axes else {})
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    table: dict[str, Any] = {}
    for name, options in NETWORKS.items():
        config = ViTConfig(**sizes, **options)
        params = {name: jnp.asarray(value) for name, value in initial_parameters(config).items()}
        images = jnp.zeros((BATCH, 32, 32, 3))

        def forward(params: Any, images: Any, config: ViTConfig = config) -> Any:
            return vit(images, params, config)

        def loss(params: Any, images: Any, config: ViTConfig = config) -> Any:
            return jnp.square(vit(images, params, config).logits).mean()

        for way, function in (("forward", forward), ("gradient", jax.grad(loss))):
            lone = work(jax.jit(function).lower(params, images).compile())
            with jax.set_mesh(mesh):
                placed = {n: jax.device_put(v, NamedSharding(mesh, place(n, v.shape))) for n, v in params.items()}
                given = jax.device_put(images, NamedSharding(mesh, P("data")))
                table[f"{name}, {way}"] = entry(function, (placed, given), lone)
    return table


def mergers(kind: Any) -> dict[str, Any]:
    """Every merger alone: forward with unmerging and composing, and the gradient."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    table: dict[str, Any] = {}
    for name, options in MERGERS.items():
        merger = get_merger(name.split()[0], backend="jax", **options)
        rng, n = np.random.default_rng(0), 33
        x = rng.standard_normal((BATCH, n, 64), np.float32)
        inputs = {"x": x, "size": np.ones((BATCH, n), np.float32), "mask": rng.random((BATCH, n)) < 0.8}
        if name == "ats":
            inputs |= {"attn": rng.random((BATCH, 2, n), np.float32), "value": rng.random((BATCH, 2, n, 4), np.float32)}
        inputs = {key: jnp.asarray(value) for key, value in inputs.items()}

        def forward(inputs: Any, merger: Any = merger) -> Any:
            out = merger(**inputs)
            plan = out.plan
            second = get_merger("tome", backend="jax", r=2)(out.tokens, size=out.size, mask=out.mask)
            joined = compose(plan, second.plan)
            return out, plan.unmerge(out.tokens), plan.matrix(inputs["size"]), joined.unmerge(second.tokens)

        def total(tokens: Any, inputs: Any, merger: Any = merger) -> Any:
            out = merger(**inputs | {"x": tokens})
            return jnp.square(out.plan.unmerge(out.tokens)).sum(axis=(1, 2))

        def loss(inputs: Any, total: Any = total) -> Any:
            result, backward = jax.vjp(lambda tokens: total(tokens, inputs), inputs["x"])
            return backward(jnp.ones_like(result))

        for way, function in (("forward", forward), ("gradient", loss)):
            lone = work(jax.jit(function).lower(inputs).compile())
            with jax.set_mesh(mesh):
                given = {key: jax.device_put(value, NamedSharding(mesh, P("data"))) for key, value in inputs.items()}
                table[f"{name}, {way}"] = entry(function, (given,), lone)
    return table


def mapped() -> dict[str, Any]:
    """`shard_map` gives what one device gives."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    table = {}
    for name, options in NETWORKS.items():
        config = ViTConfig(**SIZES, **options)
        params = {name: jnp.asarray(value) for name, value in initial_parameters(config).items()}
        images = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))

        def logits(images: Any, params: Any, config: ViTConfig = config) -> Any:
            return vit(images, params, config).logits

        spread = jax.shard_map(logits, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
        split = jnp.concatenate([jax.jit(logits)(part, params) for part in jnp.split(images, 8)])
        table[name] = bool((jax.jit(spread)(images, params) == split).all())
    return table


if __name__ == "__main__":
    wanted = sys.argv[1]
    tables = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
    table = mapped() if wanted == "shard_map" else mergers(tables[wanted]) if wanted in tables else networks(wanted)
    print(json.dumps(table))
