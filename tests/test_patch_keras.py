"""Token merging in ViTs of keras-hub on Keras' JAX backend: what they compute is what our own network computes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tokenmerge import ToMeMerging, ViTConfig, patch
from tokenmerge.spec.shared.vit_parameters import initial_parameters

jax = pytest.importorskip("jax")
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs keras-hub")
hub = pytest.importorskip("keras_hub", reason="needs keras-hub")
models, layers = hub.models, hub.layers
jnp = jax.numpy
if keras.config.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

OPTIONS: dict[str, dict[str, Any]] = {"tome": {"r": 3}, "ats": {"max_tokens": (9, 5)}}


def network(pooling: str = "token", **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    sizes = {"image_shape": (16, 16, 3), "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
    backbone = models.ViTBackbone(**sizes, mlp_dim=64, **options)
    return models.ViTImageClassifier(backbone=backbone, num_classes=5, pooling=pooling)


def images() -> Any:
    return jax.random.normal(jax.random.key(1), (3, 16, 16, 3))


def run(model: Any) -> Any:
    """The logits, by a program compiled now."""
    state = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]
    return jax.jit(lambda state, rest, x: model.stateless_call(state, rest, x)[0])(state, rest, images())


def close(got: Any, want: Any) -> bool:
    """Whether the same was computed in another order of sums: half of the digits."""
    got, want = np.asarray(got), np.asarray(want)
    return bool(np.abs(got - want).max() <= np.sqrt(np.finfo(want.dtype).eps) * np.abs(want).max())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_merges_and_is_itself_again(name: str) -> None:
    model = network()
    before, features = run(model), model.backbone.predict(images(), verbose=0)
    with patch(model.backbone, name, **OPTIONS[name]) as handle:
        logits, (out, merging) = run(model), jax.jit(handle)(images())
        assert (logits != before).any()
        assert all(plan is not None for plan in merging.plans)
        assert out.shape[1] == merging.plans[-1].num_tokens_out < 17
        assert close(model.backbone.predict(images(), verbose=0), out)
        assert close(model.output_dense(out[:, 0]), logits)
    assert (run(model) == before).all()
    assert (model.backbone.predict(images(), verbose=0) == features).all()


def test_r_0_is_the_model_to_the_last_bit() -> None:
    model = network()
    before = run(model)
    with patch(model, "tome", r=0):
        assert (run(model) == before).all()


def ours(model: Any) -> dict[str, Any]:
    """The same parameters as those of our own network."""
    patches, encoder = (model.backbone.get_layer(name) for name in ("vit_patching_and_embedding", "vit_encoder"))
    params = {
        "cls_token": patches.class_token.value,
        "pos_embed": patches.position_embedding.embeddings.value[None],
        "patch_embed.proj.weight": patches.patch_embedding.kernel.value.transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": patches.patch_embedding.bias.value,
    }

    def norm(name: str, layer: Any) -> None:
        params[name + ".weight"], params[name + ".bias"] = layer.gamma.value, layer.beta.value

    def linear(name: str, layer: Any) -> None:
        params[name + ".weight"], params[name + ".bias"] = layer.kernel.value.T, layer.bias.value

    norm("norm", encoder.layer_norm)
    linear("head", model.output_dense)
    for index, block in enumerate(encoder.encoder_layers):
        name, mha = f"blocks.{index}.", block.mha
        parts = (mha.query_dense, mha.key_dense, mha.value_dense)
        params[name + "attn.qkv.weight"] = jnp.concatenate([part.kernel.value.reshape(16, 16).T for part in parts])
        params[name + "attn.qkv.bias"] = jnp.concatenate([part.bias.value.ravel() for part in parts])
        params[name + "attn.proj.weight"] = mha.output_dense.kernel.value.reshape(16, 16).T
        params[name + "attn.proj.bias"] = mha.output_dense.bias.value
        norm(name + "norm1", block.layer_norm_1)
        norm(name + "norm2", block.layer_norm_2)
        linear(name + "mlp.fc1", block.mlp.dense_1)
        linear(name + "mlp.fc2", block.mlp.dense_2)
    return params


@pytest.mark.parametrize("around", [None, "mlp", "block"])
def test_a_patched_network_is_ours(around: Any) -> None:
    from tokenmerge.backends.jax.vit import vit

    model, params = network(), {}
    params = ours(model)
    sizes = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "num_classes": 5}
    config = ViTConfig(**sizes, merging=ToMeMerging(r=3, around=around))
    assert params.keys() == initial_parameters(config).keys()
    with patch(model, "tome", r=3, around=around) as handle:
        logits, merging = jax.jit(handle)(images())
    out = jax.jit(vit, static_argnames="config")(images(), params, config=config)
    for plan, other in zip(merging.plans, out.plans, strict=True):
        assert (plan.assignment == other.assignment).all()
    assert close(logits, out.logits)


def test_a_mean_weighs_sizes() -> None:
    model = network("gap")
    with patch(model, "tome", r=3) as handle:
        logits, merging = jax.jit(handle)(images())
        assert merging.size.sum(axis=1).tolist() == [17.0] * 3
    with patch(model.backbone, "tome", r=3) as handle:
        tokens, merging = jax.jit(handle)(images())
    mean = (tokens * merging.size[:, :, None]).sum(axis=1) / 17
    assert close(model.output_dense(mean), logits)


def test_a_step_of_training_lowers_the_loss() -> None:
    model, labels = network(dropout_rate=0.0), jnp.array([0, 1, 2])
    state = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    def loss(state: Any) -> Any:
        logits, _ = model.stateless_call(state, rest, images(), training=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    with patch(model, "tome", r=3):
        before, gradient = jax.jit(jax.value_and_grad(loss))(state)
        assert all(np.isfinite(leaf).all() for leaf in gradient)
        step = [value - slope / 64 for value, slope in zip(state, gradient, strict=True)]
        assert jax.jit(loss)(step) < before


def test_bad_input() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"^patch: `name` must be one of 'tome', 'ats', got 'ltm'"):
        patch(model, "ltm", compression_ratio=0.5)
    with pytest.raises(TypeError, match=r"^patch: `r` must be given with 'tome', got nothing"):
        patch(model, "tome")
    with patch(model, "tome", r=1), pytest.raises(ValueError, match=r"^patch: `model` must not be patched already"):
        patch(model, "tome", r=1)
    with pytest.raises(ValueError, match=r"^patch: `model` must have attention_dropout=0, got 0.5"):
        patch(network(attention_dropout=0.5), "tome", r=1)
    with pytest.raises(ValueError, match=r"^patch: `model` must classify its class token for 'ats'"):
        patch(network("gap"), "ats", max_tokens=5)
    with pytest.raises(ValueError, match=r"^patch: `model` must be a ViTBackbone of keras-hub"):
        patch(layers.TransformerEncoder(16, 2), "tome", r=1)
    with pytest.raises(
        TypeError, match=r"^patch: `model` must be a flax.nnx.Module or a ViT of equimo or keras-hub, got"
    ):
        patch(keras.Sequential(), "tome", r=1)
