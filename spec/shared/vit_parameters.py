"""The parameters of a vision transformer: names of timm's state dict, shapes, first values (docs/vit.md).

Learned mergers add `blocks.I.merger.NAME`. Shapes are those of PyTorch in every backend: a linear map is `(out, in)`,
the patch embedding `(dim, channels, patch, patch)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tokenmerge.spec.shared.arguments import check_parameter, shown
from tokenmerge.spec.shared.initial import initial_queries
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_steps import steps

Array = np.ndarray[Any, Any]


def parameter_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in the order of the network.

    >>> config = ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=3)
    >>> shapes = parameter_shapes(config)
    >>> shapes["pos_embed"], shapes["blocks.0.attn.qkv.weight"], shapes["head.weight"]
    ((1, 5, 8), (24, 8), (3, 8))
    """
    return dict(_named_shapes(config))


def is_merger_parameter(name: str) -> bool:
    """Whether a name belongs to a learned merger: no checkpoint of an unmerged network has it."""
    return ".merger." in name


def initial_parameters(config: ViTConfig, seed: int = 0) -> dict[str, Array]:
    """First values, drawn by NumPy in float32, so the same for a seed in every backend.

    As in timm: linear weights and the position embedding are normal with deviation 0.02, biases 0, norms 1 and 0, class
    and register tokens normal with deviation 1e-6, LayerScale its configured value. Mergers start as their pages say.
    """
    generator = np.random.default_rng(seed)
    values = {}
    for name, shape in _named_shapes(config):
        last = name.rpartition(".")[2]
        if last == "queries":
            values[name] = initial_queries(shape[0], shape[1], seed)
        elif last == "gamma":
            values[name] = np.full(shape, config.layer_scale, np.float32)
        elif "norm" in name or last == "scale":
            values[name] = np.full(shape, float(last in ("weight", "scale")), np.float32)
        elif last == "bias" or ".merger." in name:
            values[name] = np.zeros(shape, np.float32)
        else:
            deviation = np.float32(1e-6 if name in ("cls_token", "reg_token", "dist_token") else 0.02)
            values[name] = deviation * generator.standard_normal(shape, dtype=np.float32)
    return values


def check_parameters(config: ViTConfig, params: Mapping[str, Any]) -> None:
    """Check that a state dict fits: every name and shape, where a learned merger's may all be missing.

    Raises:
        TypeError, ValueError: not a mapping, or names that are missing, unexpected or of the wrong shape, all of them
            in one sentence.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"vit: `params` must be a mapping of names to arrays, got {type(params).__name__}")
    for name, value in params.items():
        if not isinstance(name, str):
            raise TypeError(f"vit: `params` must be a mapping of names to arrays, got the name {shown(name)}")
        check_parameter("vit", name, value)
    shapes = parameter_shapes(config)
    merger = {name for name in shapes if is_merger_parameter(name)}
    optional = merger if merger.isdisjoint(params) else set()
    missing = [name for name in shapes if name not in params and name not in optional]
    unexpected = [name for name in params if name not in shapes]
    wrong = [
        f"{name} {tuple(params[name].shape)} instead of {shapes[name]}"
        for name in shapes
        if name in params and tuple(params[name].shape) != shapes[name]
    ]
    problems = [
        f"{what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong))
        if names
    ]
    if problems:
        raise ValueError(f"vit: `params` must fit the configuration, got {'; '.join(problems)}")


def _named_shapes(config: ViTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    dim, hidden, head = config.dim, config.hidden_dim, config.head_dim
    if config.class_token:
        yield "cls_token", (1, 1, dim)
    if config.register_tokens:
        yield "reg_token", (1, config.register_tokens, dim)
    if config.distillation_token:
        yield "dist_token", (1, 1, dim)
    embedded = config.num_tokens - (config.prefix_tokens if config.no_embed_class else 0)
    yield "pos_embed", (1, embedded, dim)
    yield "patch_embed.proj.weight", (dim, config.channels, config.patch_size, config.patch_size)
    if not config.pre_norm:
        yield "patch_embed.proj.bias", (dim,)
    else:
        yield from _norm("norm_pre", dim)
    for block, step in enumerate(steps(config)):
        at = f"blocks.{block}."
        yield from _norm(at + "norm1", dim)
        yield at + "attn.qkv.weight", (3 * dim, dim)
        if config.qkv_bias:
            yield at + "attn.qkv.bias", (3 * dim,)
        if config.qk_norm:
            yield from _norm(at + "attn.q_norm", head)
            yield from _norm(at + "attn.k_norm", head)
        yield from _linear(at + "attn.proj", dim, dim)
        if config.layer_scale is not None:
            yield at + "ls1.gamma", (dim,)
        learned = [(f"{at}merger.{name}", shape) for name, shape in step.parameter_shapes(dim).items()]
        if step.place != "block":
            yield from learned
        yield from _norm(at + "norm2", dim)
        yield from _linear(at + "mlp.fc1", hidden, dim)
        yield from _linear(at + "mlp.fc2", dim, hidden)
        if config.layer_scale is not None:
            yield at + "ls2.gamma", (dim,)
        if step.place == "block":
            yield from learned
    yield from _norm("fc_norm" if config.pools_before_norm else "norm", dim)
    if config.num_classes:
        yield from _linear("head", config.num_classes, dim)
        if config.distillation_token:
            yield from _linear("head_dist", config.num_classes, dim)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (width,)
    yield name + ".bias", (width,)


def _linear(name: str, out: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (out, width)
    yield name + ".bias", (out,)


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
