"""Every network compiled for devices that are not here, where their compilers are.

Four TPU v5e need `pip install libtpu`, two H100 `pip install jax-cuda13-plugin jax-cuda13-pjrt` of JAX's own version.
"""

from __future__ import annotations

import os
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 2, "heads": 4, "num_classes": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "tome": {"merging": ToMeMerging(r=8)},
    "ats": {"merging": ATSMerging((48, 32))},
    "patch_merger": {"merging": PatchMergerMerging(1, 8), "pool": "mean"},
    "ltm": {"merging": LTMMerging(0.5, around=None)},
}
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin")}
TPU_MACHINE = {  # what the compiler would ask it for
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
H100 = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "shared_memory_per_core": 233472,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "memory_bandwidth": 3352320000000,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 84942979072,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}


@cache
def devices(platform: str) -> Any:
    from jax.experimental import topologies

    if platform == "tpu":
        os.environ.update({name: os.environ.get(name, value) for name, value in TPU_MACHINE.items()})
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    numbers = " ".join(f"{name}: {value}" for name, value in H100.items())
    described = f'gpu_device_info {{ {numbers} cuda_compute_capability {{ major: 9 }} }} platform_name: "CUDA"'
    return topologies.get_topology_desc(platform="cuda", target_config=described, topology="1x1x2").devices


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("platform", COMPILERS)
def test_a_network_compiles_for_a_platform_and_sends_nothing(platform: str, name: str) -> None:
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from tokenmerge.backends.jax.vit import vit

    if not any(find_spec(package) for package in COMPILERS[platform]):
        pytest.skip(f"none of {COMPILERS[platform]}, the compilers for {platform}, is installed")
    mesh = Mesh(np.array(devices(platform)), ("data",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    config = ViTConfig(**SIZES, **NETWORKS[name])
    shapes = parameter_shapes(config).items()
    params = {name: jax.ShapeDtypeStruct(shape, "float32", sharding=whole) for name, shape in shapes}
    images = jax.ShapeDtypeStruct((16, 32, 32, 3), "float32", sharding=split)
    program = jax.jit(partial(vit, config=config)).lower(images, params).compile()
    text = program.as_text()
    assert [each for each in COLLECTIVES if f" {each}(" in text or f" {each}-start(" in text] == []
    assert {leaf.spec[0] for leaf in jax.tree.leaves(program.output_shardings)} == {"data"}
