"""The PyTorch network: the spec's results, timm's parameters, training, one graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import vit_cases

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit
from tokenmerge.backends.torch.vit import PatchEmbed
from tokenmerge.spec.shared.vit_parameters import initial_parameters
from tokenmerge.spec.shared.vit_steps import steps

torch = pytest.importorskip("torch")


def torch_vit(config: ViTConfig, params: dict[str, Any]) -> Any:
    model = get_vit(config, backend="torch").double().eval()
    model.load_params(params)
    return model


def channels_first(images: Any) -> Any:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture(autouse=True)
def double() -> Any:
    """What depends on no array, such as a plan's matrix without sizes, in the precision of the comparison."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", vit_cases.CASES)
def test_agrees_with_the_spec(name: str) -> None:
    config, params, images, reference = vit_cases.reference(name)
    with torch.no_grad():
        output = torch_vit(config, params)(channels_first(images))
    assert reference.differences(output) == []


@pytest.mark.parametrize("name", ["tome everything", "tome, ltm, tome, ats", "tome, patch_merger, tome"])
def test_is_one_graph(name: str) -> None:
    config, params, images, reference = vit_cases.reference(name)
    torch.compiler.reset()
    compiled = torch.compile(torch_vit(config, params), fullgraph=True, backend="eager")
    with torch.no_grad():
        assert reference.differences(compiled(channels_first(images))) == []


def test_a_network_can_be_copied() -> None:
    merging = PatchMergerMerging(num_tokens_out=2)
    config = ViTConfig(
        image_size=8, patch_size=4, dim=4, depth=2, heads=1, pool="mean", class_token=False, merging=merging
    )
    network = get_vit(config, backend="torch").eval()
    images = torch.ones(1, 3, 8, 8)
    assert torch.equal(copy.deepcopy(network)(images).logits, network(images).logits)


def test_patches_by_a_product_are_those_of_the_convolution() -> None:
    embed = PatchEmbed(ViTConfig(image_size=(12, 8), patch_size=4, dim=16, heads=2))
    for parameter in embed.parameters():  # small integers, of which every sum is exact
        parameter.data = torch.randint(-3, 4, parameter.shape).double()
    images = torch.randint(-3, 4, (2, 3, 12, 8)).double()
    assert torch.equal(embed.product(images), embed(images)) and embed(images).any()


def test_gradients_reach_every_parameter() -> None:
    for name in ("tome everything", "ats everything", "ltm mean", "tome, patch_merger, tome"):
        config, params, images, _ = vit_cases.reference(name)
        model = torch_vit(config, params)
        output = model(channels_first(images))
        (output.logits * torch.linspace(-1, 1, output.logits.numel()).reshape(output.logits.shape)).sum().backward()
        for parameter, value in model.named_parameters():
            assert torch.isfinite(value.grad).all(), (name, parameter)
            assert (value.grad != 0).any(), (name, parameter)


# What timm builds

SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
TIMM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "class token": ({}, {}),
    "registers": ({"reg_tokens": 4}, {"register_tokens": 4}),
    "no embed class": (
        {"reg_tokens": 4, "no_embed_class": True},
        {"register_tokens": 4, "no_embed_class": True},
    ),
    "layer scale": ({"init_values": 0.3}, {"layer_scale": 0.3}),
    "qk norm": ({"qk_norm": True}, {"qk_norm": True}),
    "pre norm": ({"pre_norm": True}, {"pre_norm": True}),
    "average pooling": (
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "pool": "mean"},
    ),
    "average pooling, norm first": (
        {"global_pool": "avg", "fc_norm": False},
        {"pool": "mean", "fc_norm": False},
    ),
    "no head": ({"num_classes": 0}, {"num_classes": 0}),
    "no bias": ({"qkv_bias": False, "mlp_ratio": 2}, {"qkv_bias": False, "mlp_dim": 32}),
}


@pytest.mark.parametrize("name", [*TIMM, "distillation"])
def test_state_dict_of_timm_gives_the_logits_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs, ours = TIMM.get(name, ({}, {"distillation_token": True}))
    kind = timm.models.deit.VisionTransformerDistilled if name == "distillation" else timm.models.VisionTransformer
    torch.manual_seed(0)
    model = kind(**SIZES | theirs).eval()
    config = ViTConfig(**vit_cases.BASE | {"depth": 3} | ours)
    with torch.no_grad():
        for value in model.parameters():  # zeros and ones would hide a part that is left out
            value.add_(0.2 * torch.randn_like(value))
    params = {key: value.numpy() for key, value in model.state_dict().items()}
    images = vit_cases.images(config)
    reference = vit_cases.Reference(config, params, images)
    with torch.no_grad():
        logits = model(channels_first(images)).numpy()
        loaded = get_vit(config, backend="torch")
        loaded.load_state_dict(model.state_dict())  # the framework's own way, names and all
        assert (np.abs(logits - reference.parts["logits"]) <= reference.budget["logits"]).all()
        assert reference.differences(loaded.eval()(channels_first(images))) == []


def test_parameters_without_the_merger_keep_its_first_values() -> None:
    config = vit_cases.config("patch_merger")
    first = initial_parameters(config)
    plain = {name: value + 1 for name, value in first.items() if ".merger." not in name}
    model = get_vit(config, backend="torch")
    model.load_params(plain)
    loaded = model.params()
    assert all((loaded[name] == value).all() for name, value in plain.items())
    assert all((loaded[name] == value).all() for name, value in first.items() if ".merger." in name)


@pytest.mark.parametrize("backend", ["spec", "numpy", "torch", "jax"])
def test_mismatch_names_what_is_wrong_and_changes_nothing(backend: str) -> None:
    config = vit_cases.config("plain")
    model = get_vit(config, backend=backend)
    before = model.params()
    params = dict(before)
    del params["norm.weight"]
    params["neck.weight"] = np.zeros(3)
    params["head.weight"] = np.zeros((7, 16))
    params["cls_token"] = params["cls_token"] + 1
    with pytest.raises(
        ValueError,
        match=r"^vit: `params` must fit the configuration, got missing: norm\.weight; unexpected: neck\.weight; "
        r"wrong shape: head\.weight \(7, 16\) instead of \(5, 16\)$",
    ):
        model.load_params(params)
    assert all((before[name] == value).all() for name, value in model.params().items())


# Training


def test_dropout_and_stochastic_depth_act_in_training_only() -> None:
    config = ViTConfig(**vit_cases.BASE, dropout=0.2, attn_dropout=0.2, emb_dropout=0.2, drop_path=0.5)
    model = get_vit(config, backend="torch")
    images = channels_first(vit_cases.images(config))
    torch.manual_seed(0)
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean() -> None:
    from tokenmerge.backends.torch.vit import DropPath

    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 3, 2))
    assert {tuple(sample.unique().tolist()) for sample in out} == {(0.0,), (1 / 0.75,)}
    deviation = (0.25 / 0.75 / 4000) ** 0.5
    assert abs(out.mean().item() - 1) < 5 * deviation


@pytest.mark.parametrize("merging", [ToMeMerging(r=2), ATSMerging((8, 4)), LTMMerging(0.7), PatchMergerMerging()])
def test_loss_goes_down(merging: Any) -> None:
    pool = "mean" if isinstance(merging, PatchMergerMerging) else "class"
    config = ViTConfig(**vit_cases.BASE, merging=merging, pool=pool)
    model = get_vit(config, backend="torch").train()
    images, labels = channels_first(vit_cases.images(config, batch=10)), torch.arange(10) % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_autocast_keeps_sizes_whole() -> None:
    config = vit_cases.config("tome everything")
    model = get_vit(config, backend="torch").float().eval()
    images = channels_first(vit_cases.images(config)).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.size.dtype == torch.float32
    assert (output.size.sum(dim=1) == config.num_tokens).all()
    assert torch.isfinite(output.logits.float()).all()


# Bad input


def test_image_of_the_wrong_size() -> None:
    model = get_vit(vit_cases.config("plain"), backend="torch")
    with pytest.raises(
        ValueError, match=r"^vit: `images` must have shape \(B, channels, height, width\) = \(B, 3, 16, 16\), got"
    ):
        model(torch.zeros(1, 3, 20, 16))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"merging": ToMeMerging(r=9)},
            "ToMeMerging: `r` must be at most 8, half of the 16 tokens that may merge, got 9",
        ),
        ({"merging": ToMeMerging(r=[1] * 5)}, "merge_schedule: `r` must have at most depth = 4 entries, got 5"),
        ({"merging": ATSMerging((4,) * 5)}, "ATSMerging: `max_tokens` must have at most 4 entries, .*got 5"),
        ({"merging": PatchMergerMerging()}, "ViTConfig: `pool` must be 'mean' with PatchMergerMerging.*got 'class'"),
        ({"merging": {7: ToMeMerging(r=1)}}, "ViTConfig: `merging` must name blocks below depth = 4, got block 7"),
        (
            {"merging": {1: ToMeMerging(r=1), range(0, 3): LTMMerging(0.5)}},
            "ViTConfig: `merging` must name a block once, got block 1 twice",
        ),
        (
            {"merging": ATSMerging((4,)), "class_token": False, "pool": "mean"},
            "ViTConfig: `class_token` must be True.*",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["spec", "torch"])
def test_merging_that_does_not_fit(backend: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        get_vit(ViTConfig(**vit_cases.BASE | options), backend=backend)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_size": 18}, "ViTConfig: `image_size` must be a multiple of patch_size = 4, got 18"),
        ({"heads": 3}, "ViTConfig: `dim` must be a multiple of heads = 3, got 16"),
        ({"pool": "cls"}, "ViTConfig: `pool` must be one of 'class', 'mean', got 'cls'"),
        ({"class_token": False}, "ViTConfig: `pool` must be 'mean' without a class token, got 'class'"),
        ({"depth": 0}, "ViTConfig: `depth` must be an integer >= 1, got 0"),
    ],
)
def test_configuration_that_contradicts_itself(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        ViTConfig(**vit_cases.BASE | options)


def test_a_masked_class_token_is_kept_as_in_the_spec_and_in_numpy() -> None:
    """ATS behind a mask in which the class token itself is padding: the other tokens in front stay all the same."""
    from tokenmerge.backends.numpy import vit as numpy_vit
    from tokenmerge.backends.torch import vit as torch_vit
    from tokenmerge.spec import vit as spec_vit

    config = ViTConfig(
        image_size=16, patch_size=4, dim=8, depth=1, heads=2, register_tokens=2, merging=ATSMerging((2,))
    )
    (step,) = steps(config)
    rng = np.random.default_rng(0)
    row, value = rng.random((1, 2, config.num_tokens)), rng.standard_normal((1, 2, config.num_tokens, 4))
    mask = np.ones((1, config.num_tokens), bool)
    mask[0, 0] = False
    wanted = spec_vit.sample(step, row[0], value[0], mask[0])
    ours = numpy_vit.sample(step, row, value, mask)
    merger = torch_vit._merger(config, step)
    theirs = torch_vit.sample(merger, *(torch.from_numpy(each) for each in (row, value)), 3, torch.from_numpy(mask))
    assert wanted.mask.tolist() == ours.mask[0].tolist() == theirs.mask[0].tolist() == [False, True, True, True, True]
    assert wanted.indices.tolist() == ours.indices[0].tolist() == theirs.indices[0].tolist()
