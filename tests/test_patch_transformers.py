"""Patched Hugging Face models: the same as the model written out with the NumPy mergers, and as before when removed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokenmerge import get_merger, merge_schedule

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from patch_cases import near  # noqa: E402

from tokenmerge.backends.torch import patch  # noqa: E402
from tokenmerge.backends.torch.patching import CannotPatch, handle  # noqa: E402

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {"layerscale_value": 0.5, "drop_path_rate": 0.1, "mlp_ratio": 2}


def vision(kind: str) -> Any:
    """The configuration of a CLIP or SigLIP model, whose text half is as small as it gets."""
    text = {**SIZES, "num_hidden_layers": 1, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return getattr(hf, f"{kind}Config")(vision_config=SIZES, text_config=text, num_labels=5)


BUILD: dict[str, Callable[[], Any]] = {
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**SIZES, num_labels=5)),
    "vit, tokens": lambda: hf.ViTModel(hf.ViTConfig(**SIZES), add_pooling_layer=False),
    "deit": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**SIZES, num_labels=5)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**SIZES | DINO, num_labels=5)),
    "dinov2, registers": lambda: hf.Dinov2WithRegistersForImageClassification(
        hf.Dinov2WithRegistersConfig(**SIZES | DINO, num_labels=5)
    ),
    "clip": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**SIZES, projection_dim=5)),
    "clip, mean": lambda: hf.CLIPForImageClassification(vision("CLIP")),
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SIZES)),
    "siglip, mean": lambda: hf.SiglipForImageClassification(vision("Siglip")),
}
PREFIX = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2, registers": 5, "clip": 1, "siglip": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"r": (3, -0.5)},
    "ats": {"max_tokens": (9, 6)},
    "ltm": {"compression_ratio": 0.6, "around": None},
    "patch_merger": {"num_tokens_out": 4},
}


def family(name: str) -> str:
    return name.removesuffix(", mean").removesuffix(", tokens")


def fits(name: str, merger: str) -> bool:
    if merger == "ats":
        return PREFIX[family(name)] > 0
    return merger != "patch_merger" or family(name) == "siglip" or name in ("vit, tokens", "clip, mean")


def build(name: str, implementation: str = "sdpa") -> Any:
    torch.manual_seed(0)
    model = BUILD[name]().double().eval()
    model.set_attn_implementation(implementation)
    shake(model)
    return model


def shake(model: Any) -> None:
    """Zeros and ones would hide a part that is left out."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
            value.copy_(value.float())  # the NumPy mergers keep their parameters in float32


def pixels(batch: int = 2) -> Any:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def result(output: Any) -> Any:
    names = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
    return next(output[name] for name in names if output.get(name) is not None)


def tower(model: Any) -> Any:
    """The module that runs the blocks."""
    return next(module for module in model.modules() if hasattr(module, "embeddings"))


# The model written out


def layers(network: Any) -> Any:
    if hasattr(network, "layers"):
        return network.layers
    return network.encoder.layer if hasattr(network.encoder, "layer") else network.encoder.layers


def part(module: Any, *names: str) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), lambda x: x)


def heads(x: Any, attention: Any) -> Any:
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return [each(x).reshape(*x.shape[:2], 3, 8).transpose(1, 2) for each in parts]


def numpy_merger(merger: str, index: int, prefix: int, layer: Any) -> Any:
    """The NumPy merger of a block with the parameters of the model's own, or None."""
    if merger == "tome":
        return get_merger("tome", r=merge_schedule((3, -0.5), 3)[index], protected=prefix)
    if merger == "ats" and index < 2:
        return get_merger("ats", max_tokens=(9, 6)[index])
    if merger == "ltm" or (merger == "patch_merger" and index == 0):
        options = {"compression_ratio": 0.6, "protected": prefix} if merger == "ltm" else {"num_tokens_out": 4}
        made = get_merger(merger, dim=24, **options)
        made.load_params({name: value.numpy() for name, value in layer.merger.state_dict().items()})
        return made
    return None


def by_hand(model: Any, x: Any, merger: str, prefix: int) -> tuple[Any, Any, Any]:
    """Tokens before the last norm, sizes and mask, from the model's parts and explicit attention."""
    network = tower(model)
    x = part(network, "pre_layrnorm")(network.embeddings(x))
    size, mask = np.ones(x.shape[:2]), np.ones(x.shape[:2], dtype=bool)
    for index, layer in enumerate(layers(network)):
        attention, out = part(layer, "attention", "self_attn"), None
        query, key, value = heads(part(layer, "layernorm_before", "norm1", "layer_norm1")(x), attention)
        logits = query @ key.transpose(2, 3) * 8**-0.5
        if merger == "tome":
            logits = logits + torch.from_numpy(np.log(size))[:, None, None]
        logits = logits.masked_fill(~torch.from_numpy(mask)[:, None, None], -torch.inf)
        weights = logits.softmax(-1)
        branch = part(attention, "o_proj", "out_proj")((weights @ value).transpose(1, 2).flatten(2))
        branch = part(layer, "layer_scale1")(branch)
        made = numpy_merger(merger, index, prefix, layer)
        if merger == "ats" and made is not None:
            arrays = {"attn": weights[:, :, 0].numpy(), "value": value.numpy(), "size": size, "mask": mask}
            out = made((x + branch).numpy(), **arrays)
        elif merger == "tome":
            out = made((x + branch).numpy(), metric=key.mean(1).numpy(), size=size)
        elif merger == "ltm":
            out = made((x + branch).numpy(), size=size)
        x = x + branch
        if out is not None:
            x, size = torch.from_numpy(out.tokens), out.size
            mask = np.ones(x.shape[:2], dtype=bool) if out.mask is None else out.mask
        x = x + part(layer, "layer_scale2")(layer.mlp(part(layer, "layernorm_after", "norm2", "layer_norm2")(x)))
        if merger == "patch_merger" and made is not None:
            x = torch.from_numpy(made(x.numpy()).tokens)
            size, mask = np.ones(x.shape[:2]), np.ones(x.shape[:2], dtype=bool)
    return x, torch.from_numpy(size * mask), torch.from_numpy(mask)


def pooled(model: Any, name: str, x: Any, size: Any, prefix: int) -> Any:
    """What the model makes of its last tokens, with means and attention weighted by size."""
    network = tower(model)
    if name == "clip":
        return model.visual_projection(network.post_layernorm(x[:, 0]))
    x = part(network, "layernorm")(x) if family(name) != "siglip" else network.post_layernorm(x)
    if name == "vit, tokens":
        return x
    if name == "vit":
        return model.classifier(x[:, 0])
    if name == "deit":
        return (model.cls_classifier(x[:, 0]) + model.distillation_classifier(x[:, 1])) / 2
    weights = size[:, prefix:, None] / size[:, prefix:].sum(1)[:, None, None]
    mean = (weights * x[:, prefix:]).sum(1)
    if name.startswith("dinov2"):
        return model.classifier(torch.cat([x[:, 0], mean], 1))
    if name in ("clip, mean", "siglip, mean"):
        return model.classifier(mean)
    head = network.head
    q, k, v = (
        torch.nn.functional.linear(each, weight, bias).reshape(len(x), -1, 3, 8).transpose(1, 2)
        for each, weight, bias in zip(
            (head.probe.expand(len(x), -1, -1), x, x),
            head.attention.in_proj_weight.chunk(3),
            head.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    seen = ((q @ k.transpose(2, 3) * 8**-0.5 + size.log()[:, None, None]).softmax(-1) @ v).transpose(1, 2).flatten(2)
    seen = head.attention.out_proj(seen)
    return (seen + head.mlp(head.layernorm(seen)))[:, 0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("merger", OPTIONS)
@pytest.mark.parametrize("name", BUILD)
def test_is_the_model_written_out(name: str, merger: str, implementation: str) -> None:
    if not fits(name, merger) or (merger == "ats" and PREFIX[family(name)] > 1):
        pytest.skip("refused, or tokens in front that the NumPy ATS does not know: see below")
    model, x, prefix = build(name, implementation), pixels(), PREFIX[family(name)]
    with torch.no_grad():
        with patch(model, merger, **OPTIONS[merger]) as patched:
            shake(model)
            got = result(model(x))
            tokens, size, mask = by_hand(model, x, merger, prefix)
        expected = pooled(model, name, tokens, size, 0 if merger == "patch_merger" else prefix)
    if got.ndim == 3:
        got, expected = got * mask[..., None], expected * mask[..., None]
    # the library's eager softmax is always in float32
    assert near(got, expected, model, "float64" if implementation == "sdpa" else "float32")
    assert patched.size is None or torch.equal(patched.size.double() * mask, size) or merger == "ltm"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BUILD)
def test_nothing_to_merge_changes_no_bit(name: str, implementation: str) -> None:
    model, x = build(name, implementation).float(), pixels().float()
    with torch.no_grad():
        before = result(model(x))
        with patch(model, "tome", r=0):
            assert torch.equal(result(model(x)), before)
        with patch(model, "ltm", compression_ratio=1.0, prior_smoothing=0.0):
            assert result(model(x)).shape == before.shape


@pytest.mark.parametrize("merger", OPTIONS)
@pytest.mark.parametrize("name", BUILD)
def test_after_removal_the_model_is_what_it_was(name: str, merger: str) -> None:
    model, x = build(name), pixels()
    seen = [(module, inside(module)) for module in model.modules()]
    keys = list(model.state_dict())
    with torch.no_grad():
        before = result(model(x))
        if fits(name, merger):
            with patch(model, merger, **OPTIONS[merger]):
                assert torch.isfinite(result(model(x))).all()
        else:
            with pytest.raises(CannotPatch, match=r"^patch: `model` must .*, got .*$"):
                patch(model, merger, **OPTIONS[merger])
        assert torch.equal(result(model(x)), before)
    assert list(model.state_dict()) == keys
    assert [(module, inside(module)) for module in model.modules()] == seen


def inside(module: Any) -> dict[str, Any]:
    """Everything in a module, with what is in its dictionaries."""
    return {name: list(value) if isinstance(value, dict) else id(value) for name, value in vars(module).items()}


@pytest.mark.parametrize("name", ["deit", "dinov2, registers"])
@pytest.mark.parametrize("merger", ["tome", "ats", "ltm"])
def test_tokens_in_front_stay_in_front(name: str, merger: str) -> None:
    model, prefix = build(name), PREFIX[name]
    with torch.no_grad(), patch(model, merger, **OPTIONS[merger]) as patched:
        model(pixels())
        first = patched.source().matrix()[:, :prefix]
        assert torch.equal(first[:, :, :prefix], torch.eye(prefix).expand(2, -1, -1))
        assert not first[:, :, prefix:].any()


def test_hidden_states_go_back_to_the_grid() -> None:
    model = build("dinov2, registers")
    with torch.no_grad(), patch(model, "tome", r=3) as patched:
        states = model(pixels(), output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [21, 18, 15, 12]
    grid = patched.unmerge(states[-1])[:, 5:].reshape(2, 4, 4, 24)
    assert set(map(tuple, grid.reshape(-1, 24).tolist())) <= set(map(tuple, states[-1].reshape(-1, 24).tolist()))


def test_the_text_half_is_left_alone() -> None:
    config = vision("CLIP")
    torch.manual_seed(0)
    model = hf.CLIPModel(config).eval()
    text = torch.tensor([[0, 3, 1]])
    with torch.no_grad():
        before = model(input_ids=text, pixel_values=pixels().float())
        with patch(model, "tome", r=3) as patched:
            after = model(input_ids=text, pixel_values=pixels().float())
            model.get_image_features(pixels().float())
    assert torch.equal(before.text_embeds, after.text_embeds)
    assert not torch.equal(before.image_embeds, after.image_embeds)
    assert [plan.num_tokens_out for plan in patched.plans] == [14, 11, 8]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("merger", ["tome", "ats", "ltm"])
def test_copies_and_pickles_merge_on_their_own(again: Any, merger: str) -> None:
    model, x = build("vit"), pixels()
    with torch.no_grad(), patch(model, merger, **OPTIONS[merger]) as patched:
        expected = result(model(x))
        plain = len(list(build("vit").state_dict()))
        other = again(model)
        patched.remove()
        assert torch.equal(result(other(x)), expected)
        handle(other).remove()
        assert len(list(other.state_dict())) == plain
        assert torch.equal(result(other(x)), result(model(x)))


@pytest.mark.parametrize(("name", "merger"), [("vit", "tome"), ("siglip", "ltm"), ("dinov2", "ats")])
def test_compiles_to_one_graph(name: str, merger: str) -> None:
    model, x = build(name), pixels()
    with torch.no_grad(), patch(model, merger, **OPTIONS[merger]) as patched:
        expected, plans = result(model(x)), patched.plans
        torch.compiler.reset()
        got = result(torch.compile(model, fullgraph=True, backend="eager")(x))
        assert near(got, expected, model)
        assert [plan and plan.num_tokens_out for plan in patched.plans] == [
            plan and plan.num_tokens_out for plan in plans
        ]


@pytest.mark.parametrize("name", ["vit", "siglip", "clip"])
def test_half_precision_and_given_parameters(name: str) -> None:
    model, x = build(name).float(), pixels().float()
    with torch.no_grad(), patch(model, "tome", r=3):
        expected = result(model(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.isfinite(result(model(x))).all()
        values = {key: value + 0.01 for key, value in model.named_parameters()}
        assert not torch.equal(result(torch.func.functional_call(model, values, (x,))), expected)
        assert torch.equal(result(model(x)), expected)
        assert torch.isfinite(result(model.bfloat16()(x.bfloat16()))).all()


@pytest.mark.parametrize(("name", "merger"), [("dinov2", "tome"), ("vit", "ats"), ("clip, mean", "patch_merger")])
def test_trains(name: str, merger: str) -> None:
    model = build(name).train()
    patched = patch(model, merger, **OPTIONS[merger])
    labels, x = torch.arange(6) % 5, pixels(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(result(model(x)), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert (".merger." in " ".join(model.state_dict())) == (merger == "patch_merger")
    patched.remove()


# What cannot be patched


def test_a_decoder_that_needs_the_grid_is_refused() -> None:
    model = hf.ViTForMaskedImageModeling(hf.ViTConfig(**SIZES, encoder_stride=8))
    with pytest.raises(CannotPatch, match=r"^patch: `model` must not need its tokens on the grid, got ViTForMasked"):
        patch(model, "tome", r=1)
    with patch(model.vit, "tome", r=1) as patched:
        tokens = model.vit(pixels().float()).last_hidden_state
    assert patched.unmerge(tokens).shape == (2, 17, 24)


def test_an_attention_function_without_bias_is_refused_where_it_needs_one() -> None:
    model = build("vit")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        CannotPatch, match=r"^patch: `model` must have an attention that adds a bias .* for 'tome', got"
    ):
        patch(model, "tome", r=1)
    patch(model, "tome", r=1, prop_attn=False).remove()


def test_another_block_is_refused_by_name() -> None:
    class Other(hf.models.vit.modeling_vit.ViTLayer):  # type: ignore[misc, name-defined]
        def forward(self, hidden_states: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
            return super().forward(hidden_states)

    model = build("vit")
    model.vit.layers[1] = Other(model.config)
    with pytest.raises(CannotPatch, match=r"got vit\.layers\[1\] \(Other\) with .*Other\.forward$"):
        patch(model, "tome", r=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["vit", "clip", "dinov2"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str, reentrant: bool) -> None:
    found = []
    for checkpointed in (False, True):
        model = build(name).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads() if reentrant else None
        with patch(model, "tome", r=3):
            torch.manual_seed(1)
            result(model(pixels())).square().sum().backward()
        found.append([value.grad for value in model.parameters() if value.grad is not None])
    assert len(found[0]) == len(found[1])
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)
