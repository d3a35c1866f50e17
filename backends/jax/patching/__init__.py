"""Token merging inside networks that people have in JAX: Flax NNX, equimo and keras-hub (docs/guides/jax.md)."""

from __future__ import annotations

from typing import Any

from flax import nnx

from tokenmerge.backends.jax.patching import flax
from tokenmerge.backends.jax.patching.adapter import Adapter, Stream
from tokenmerge.backends.jax.patching.call import Merging, with_plans


def patch(model: Any, name: str, **options: Any) -> Any:
    """Merge tokens in a network that exists.

    Args:
        model: a Flax NNX module or a ViT of keras-hub on Keras' JAX backend ("tome" and "ats"), which is changed in
            place, or a vision transformer of equimo, which stays as it is.
        name: "tome", "ats", "patch_merger" or "ltm". The last two have parameters, which become the model's own.
        **options: of the merger, as in PyTorch (`r=16`; `around`, of ToMe and LTM); `restore=False`, whether all
            tokens are there again after the last block, so that a mean over them weighs every token by its size; for
            NNX `prefix=1`, the number of tokens in front of the patches, and `adapters`, a mapping from classes of
            blocks to an `Adapter` each.

    Returns:
        For NNX and keras-hub a handle with `remove()`, a context manager, whose call returns the model's output and a
            `Merging` with the plans. For equimo a new model; `with_plans(model, ...)` gives its output and the plans.

    Raises:
        TypeError, ValueError: an unknown name or option, a value out of range, or a model that cannot be patched. The
            model is as it was.

    >>> from tokenmerge.backends.jax.patching.example import VisionTransformer
    >>> import jax.numpy as jnp
    >>> model = VisionTransformer(rngs=nnx.Rngs(0))
    >>> with patch(model, "tome", r=2) as handle:
    ...     logits, merging = handle(jnp.ones((2, 16, 16, 3)))
    >>> logits.shape, [plan.num_tokens_out for plan in merging.plans]
    ((2, 5), [15, 13])
    """
    if any(kind.__module__.startswith("keras_hub.") for kind in type(model).__mro__):
        from tokenmerge.backends.jax.patching import keras

        return keras.patch(model, name, **options)
    if isinstance(model, nnx.Module):
        return flax.patch(model, name, **options)
    if any(kind.__module__.startswith("equimo.") for kind in type(model).__mro__):
        from tokenmerge.backends.jax.patching import equimo

        return equimo.patch(model, name, **options)
    raise TypeError(
        f"patch: `model` must be a flax.nnx.Module or a ViT of equimo or keras-hub, got {type(model).__name__}"
    )


__all__ = ["Adapter", "Merging", "Stream", "patch", "with_plans"]
