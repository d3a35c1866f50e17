"""Vision transformers of keras-hub on Keras' JAX backend: the loop over blocks of their encoder, changed in place."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import keras
from keras_hub.models import ViTBackbone

from tokenmerge.backends.jax.patching.adapter import Adapter, Stream, merging_block
from tokenmerge.backends.jax.patching.call import Merging, current, unmerged, with_plans
from tokenmerge.backends.jax.patching.mergers import mergers, place
from tokenmerge.spec.shared.arguments import check_choice

Array = jax.Array


def _heads(block: Any, x: Array, rotary: Any, **options: Any) -> tuple[Array, Array, Array]:
    attention, inside = block.mha, block.layer_norm_1(x)
    query, key, value = attention.query_dense(inside), attention.key_dense(inside), attention.value_dense(inside)
    return jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)


def _after_attention(block: Any, x: Array, attended: Array, **options: Any) -> Array:
    split = attended.reshape(*attended.shape[:2], block.num_heads, block.key_dim)
    return block.dropout(block.mha.output_dense(split)) + x


def _after_merging(block: Any, x: Array, **options: Any) -> Array:
    return x + block.mlp(block.layer_norm_2(x))


ADAPTER = Adapter(_heads, _after_attention, _after_merging, lambda block: block.hidden_dim)


class Handle:
    """A patched network; calling it gives the model's output and what was merged."""

    def __init__(self, model: Any, encoder: Any) -> None:
        self.model, self._encoder = model, encoder

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Merging]:
        return with_plans(self.model, *args, **kwargs)

    def remove(self) -> None:
        """The model as it was. A second time does nothing."""
        if self._encoder is not None:
            del self._encoder.call
            _forget(self.model)
        self._encoder = None

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def _forget(model: Any) -> None:
    """`fit`, `evaluate` and `predict` keep the programs that they have compiled; the next call makes new ones."""
    model.train_function = model.test_function = model.predict_function = None


def patch(model: Any, name: str, *, restore: bool | None = None, **options: Any) -> Handle:
    """Patch a ViT of keras-hub in place; arguments as in `tokenmerge.backends.jax.patch`.

    `restore=None` brings all tokens back before a classifier pools over them, so that every token weighs its size.
    """
    backend = keras.config.backend()
    if backend != "jax":
        raise ValueError(f"patch: `model` must run on Keras' backend 'jax', got {backend!r} (KERAS_BACKEND=jax)")
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, ViTBackbone):
        raise ValueError(
            f"patch: `model` must be a ViTBackbone of keras-hub, or have one as `backbone`, got {type(model).__name__}"
        )
    check_choice("patch", "name", name, ("tome", "ats"))  # the others have parameters, and a built layer takes no more
    encoder = backbone.get_layer("vit_encoder")
    if "call" in vars(encoder):
        raise ValueError("patch: `model` must not be patched already, got one that is (`remove()` its handle first)")
    if backbone.attention_dropout:
        raise ValueError(f"patch: `model` must have attention_dropout=0, got {backbone.attention_dropout}")
    pools = getattr(model, "pooling", "token") != "token"
    if name == "ats" and (pools or not backbone.use_class_token):
        raise ValueError("patch: `model` must classify its class token for 'ats', got one that pools or has none")
    prefix, whole = int(backbone.use_class_token), pools if restore is None else restore
    made = mergers(name, options, backbone.num_layers, backbone.hidden_dim, prefix)
    where = place(name, options)

    def call(inputs: Array) -> Array:
        stream = Stream(encoder.dropout(inputs), prefix=prefix, **where)
        for block, merger in zip(encoder.encoder_layers, made, strict=True):
            if merger is None and not stream.merged:  # as if it were not patched, to the last bit
                stream = stream.after(block(stream.x), None, stream.prior)
            else:
                stream = merging_block(ADAPTER, block, merger, stream)
        run = current()
        if run is not None:
            run.stream = stream
        return encoder.layer_norm(unmerged(stream) if whole else stream.x)

    encoder.call = call
    _forget(model)
    return Handle(model, encoder)
