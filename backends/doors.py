"""A merger, or a network, of any backend by name. Typed: what is asked for by a literal name has its own class."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tokenmerge.backends.registry import get_backend
from tokenmerge.spec.mergers import MERGERS as DESCRIPTIONS
from tokenmerge.spec.shared.arguments import check_integer, check_names, shown
from tokenmerge.spec.shared.options import ATSOptions, LTMOptions, PatchMergerOptions, ToMeOptions
from tokenmerge.spec.shared.vit_config import ViTConfig, check_config

if TYPE_CHECKING:  # no framework is loaded for its types
    import tokenmerge.backends.jax as jax_backend
    import tokenmerge.backends.numpy as numpy_backend
    import tokenmerge.backends.torch as torch_backend


@overload
def get_merger(
    name: Literal["tome"], *, backend: Literal["torch"], **config: Unpack[ToMeOptions]
) -> torch_backend.ToMe: ...


@overload
def get_merger(
    name: Literal["ats"], *, backend: Literal["torch"], **config: Unpack[ATSOptions]
) -> torch_backend.ATS: ...


@overload
def get_merger(
    name: Literal["patch_merger"], *, backend: Literal["torch"], **config: Unpack[PatchMergerOptions]
) -> torch_backend.PatchMerger: ...


@overload
def get_merger(
    name: Literal["ltm"], *, backend: Literal["torch"], **config: Unpack[LTMOptions]
) -> torch_backend.LTM: ...


@overload
def get_merger(
    name: Literal["tome"], *, backend: Literal["jax"], **config: Unpack[ToMeOptions]
) -> jax_backend.ToMe: ...


@overload
def get_merger(name: Literal["ats"], *, backend: Literal["jax"], **config: Unpack[ATSOptions]) -> jax_backend.ATS: ...


@overload
def get_merger(
    name: Literal["patch_merger"], *, backend: Literal["jax"], **config: Unpack[PatchMergerOptions]
) -> jax_backend.PatchMerger: ...


@overload
def get_merger(name: Literal["ltm"], *, backend: Literal["jax"], **config: Unpack[LTMOptions]) -> jax_backend.LTM: ...


@overload
def get_merger(
    name: Literal["tome"], *, backend: Literal["numpy"] = ..., **config: Unpack[ToMeOptions]
) -> numpy_backend.ToMe: ...


@overload
def get_merger(
    name: Literal["ats"], *, backend: Literal["numpy"] = ..., **config: Unpack[ATSOptions]
) -> numpy_backend.ATS: ...


@overload
def get_merger(
    name: Literal["patch_merger"], *, backend: Literal["numpy"] = ..., **config: Unpack[PatchMergerOptions]
) -> numpy_backend.PatchMerger: ...


@overload
def get_merger(
    name: Literal["ltm"], *, backend: Literal["numpy"] = ..., **config: Unpack[LTMOptions]
) -> numpy_backend.LTM: ...


@overload
def get_merger(name: str, *, backend: str = ..., **config: Any) -> Any: ...


def get_merger(name: str, *, backend: str = "numpy", **config: Any) -> Any:
    """A merger of one of the backends.

    Args:
        name: "tome", "ats", "patch_merger" or "ltm".
        backend: "numpy", "torch", "jax", "spec" (the reference, slow), a registered name or a dotted module name.
        **config: the merger's options: `r, protected, order, matching, k` (tome); `max_tokens, score, sampling` (ats);
            `dim, num_tokens_out, logit_scale, normalize, use_bias, eps, seed` (patch_merger);
            `dim, compression_ratio, protected, prior_smoothing` (ltm). In JAX `dtype, param_dtype, precision, rngs`
            of the last two.

    Returns:
        The framework's own kind of object: a `torch.nn.Module`, a Flax `nnx.Module`, a plain object for NumPy. All have
        `plan(...)`, `params()` and `load_params(mapping)`, and calling one returns `Merged(tokens, size, mask, plan)`.

    Raises:
        ValueError: an unknown merger or backend, an option out of range.
        TypeError: an unknown or missing option, an option of the wrong type.
        ImportError: the backend's framework is not installed.

    >>> import numpy as np
    >>> merger = get_merger("tome", r=4, protected=1)
    >>> out = merger(np.random.default_rng(0).standard_normal((2, 17, 8)))
    >>> out.tokens.shape, out.plan.unmerge(out.tokens).shape
    ((2, 13, 8), (2, 17, 8))
    """
    if not isinstance(name, str) or name not in DESCRIPTIONS:
        close = difflib.get_close_matches(name.lower(), DESCRIPTIONS, n=1) if isinstance(name, str) else []
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        names = ", ".join(repr(each) for each in DESCRIPTIONS)
        error = ValueError if isinstance(name, str) else TypeError
        raise error(f"get_merger: `name` must be one of {names}, got {shown(name)}{hint}")
    own = [option for option in config if option not in DESCRIPTIONS[name].options]
    if own:  # of the framework, perhaps
        theirs = getattr(getattr(get_backend(backend), "MERGERS", {}).get(name), "OPTIONS", ())
        check_names(name, own, (*DESCRIPTIONS[name].options, *theirs), "option")
    for option in DESCRIPTIONS[name].required:
        if option not in config:
            raise TypeError(f"{name}: `{option}` must be given, got nothing")
    module = get_backend(backend)
    if name not in module.MERGERS:
        raise ValueError(
            f"get_merger: `name` must be a merger that {backend} has ({', '.join(module.MERGERS)}), got {name!r}"
        )
    return module.MERGERS[name](**config)


@overload
def get_vit(config: ViTConfig, *, backend: Literal["torch"], seed: int = ...) -> torch_backend.ViT: ...


@overload
def get_vit(
    config: ViTConfig,
    *,
    backend: Literal["jax"],
    seed: int = ...,
    rngs: Any = ...,
    dtype: Any = ...,
    param_dtype: Any = ...,
    precision: Any = ...,
    remat: bool = ...,
) -> jax_backend.ViT: ...


@overload
def get_vit(config: ViTConfig, *, backend: Literal["numpy"] = ..., seed: int = ...) -> numpy_backend.ViT: ...


@overload
def get_vit(config: ViTConfig, *, backend: str, seed: int = ..., **options: Any) -> Any: ...


def get_vit(config: ViTConfig, *, backend: str = "numpy", seed: int = 0, **options: Any) -> Any:
    """A vision transformer with mergers in its blocks, in one of the backends.

    Args:
        config: the network, see `ViTConfig`; `config.merging` says which merger sits where.
        backend: as in `get_merger`.
        seed: of the first parameters, which are the same in every backend.
        **options: of the framework; in JAX `dtype, param_dtype, precision, remat, rngs`, see
            `tokenmerge.backends.jax.ViT`.

    Returns:
        The framework's own kind of object: a `torch.nn.Module` (images channels first), a Flax `nnx.Module` or a plain
        object for NumPy (channels last). Calling it on images returns `logits, tokens, size, mask, plans, sizes` and
        `.plan`, the composed plan. `params()` and `load_params(mapping)` use the names of timm's `VisionTransformer`.

    Raises:
        TypeError, ValueError: a configuration that contradicts itself, an unknown backend or one without networks.
        ImportError: the backend's framework is not installed.

    >>> import numpy as np
    >>> from tokenmerge import ToMeMerging, ViTConfig
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> out = get_vit(ViTConfig(**small, merging=ToMeMerging(r=8)))(np.zeros((1, 32, 32, 3), np.float32))
    >>> out.logits.shape, out.tokens.shape
    ((1, 5), (1, 49, 16))
    """
    check_config("get_vit", config)
    check_integer("get_vit", "seed", seed, minimum=0)
    module = get_backend(backend)
    if not hasattr(module, "ViT"):
        raise ValueError(f"get_vit: `backend` must be one that has networks (ViT), got {backend!r}")
    check_names("get_vit", options, ("seed", *getattr(module.ViT, "OPTIONS", ())), "option")
    return module.ViT(config, seed=seed, **options)
