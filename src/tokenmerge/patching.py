"""`tokenmerge.patch`: token merging in a model that exists. The framework is loaded when it is called, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from tokenmerge.backends.torch.patching.handle import Handle

__all__ = ["patch", "register_block"]


@overload
def patch(
    model: Any,
    name: Literal["tome"],
    *,
    r: int | Sequence[int] | tuple[int, float] = ...,
    tokens_out: int = ...,
    prop_attn: bool = ...,
    order: str = ...,
    protected: int | None = ...,
    around: Literal["mlp", "block"] | None = ...,
    restore: bool = ...,
) -> Handle: ...


@overload
def patch(
    model: Any, name: Literal["ats"], *, max_tokens: int | Sequence[int], score: str = ..., restore: bool = ...
) -> Handle: ...


@overload
def patch(
    model: Any,
    name: Literal["patch_merger"],
    *,
    layer: int | None = ...,
    num_tokens_out: int = ...,
    logit_scale: float | None = ...,
    seed: int = ...,
    restore: bool = ...,
) -> Handle: ...


@overload
def patch(
    model: Any,
    name: Literal["ltm"],
    *,
    compression_ratio: float,
    protected: int | None = ...,
    prior_smoothing: float = ...,
    around: Literal["mlp", "block"] | None = ...,
    restore: bool = ...,
) -> Handle: ...


@overload
def patch(model: Any, name: str, **options: Any) -> Any: ...


def patch(model: Any, name: str, **options: Any) -> Any:
    """Merge tokens in a model that exists: `tokenmerge.backends.torch.patch` or `tokenmerge.backends.jax.patch`.

    They say what the options are, and what is returned.

    Args:
        model: a timm or Hugging Face vision transformer in PyTorch, or a module that holds exactly one; one in
            Flax NNX, equimo or keras-hub on Keras' JAX backend.
        name: "tome", "ats", "patch_merger" or "ltm".
        **options: of the merger, such as `r=16`.

    Returns:
        The handle: plans, `r`, `remove()`; a context manager. For equimo, whose models do not change, a new model.

    Raises:
        TypeError, ValueError: an unknown name or option, a value out of range, or a model that cannot be patched. The
            model is as it was.
        ImportError: the framework is not installed.

    >>> import torch, timm
    >>> from tokenmerge import patch
    >>> model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2).eval()
    >>> with patch(model, "tome", r=4):
    ...     model.forward_features(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 9, 192])
    """
    from tokenmerge.backends import get_backend

    lineage = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return get_backend("jax" if lineage & {"flax", "equimo", "equinox", "keras"} else "torch").patch(
        model, name, **options
    )


def register_block(block_class: Any, **names: Any) -> None:
    """Make a block of one's own known to `patch`: `tokenmerge.backends.torch.patching.register_block`, which says how.

    Args:
        block_class: a torch.nn.Module that computes `x = x + attention(...)`, then `x = x + mlp(norm(x))`.
        **names: of its parts: `attention`, `norm`, `mlp_end`, `keys`, `attention_class`, and more that have defaults.

    Raises:
        TypeError, ValueError: as there. ImportError: PyTorch is not installed.
    """
    from tokenmerge.backends.torch.patching import register_block as register

    register(block_class, **names)
