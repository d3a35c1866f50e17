"""Patched models in half precision, whose attention is by the kernel; run by `test_patch_kernels.py` or by hand.

TRITON_INTERPRET=1 pytest tests/triton_patch_cases.py          on the CPU
TRITON_CASES_DEVICE=cuda pytest tests/triton_patch_cases.py    on a GPU
"""

from __future__ import annotations

import contextlib
import copy
import os
from typing import Any

import pytest
import test_patch_timm as timm_cases
import torch
from torch.nn.functional import scaled_dot_product_attention

from tokenmerge import ViTConfig, get_vit
from tokenmerge.backends.torch import kernels, patch
from tokenmerge.backends.torch.patching.bias import KeyBias, key_bias
from tokenmerge.backends.torch.vit import PatchEmbed

DEVICE = os.environ.get("TRITON_CASES_DEVICE", "cpu")
HALVES = (torch.float16, torch.bfloat16)
Tensor = torch.Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def sizes(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 99, shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, torch.float32)


def masks(*shape: int, seed: int = 0) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    mask[:, 0] = True
    return mask.to(DEVICE)


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every call of the kernel."""
    calls: list[tuple[Any, ...]] = []
    kernel = kernels.attention

    def noted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return kernel(*arguments)

    monkeypatch.setattr(kernels, "attention", noted)
    return calls


# The bias


def made(size: Tensor | None, mask: Tensor | None = None, dtype: torch.dtype = torch.bfloat16) -> KeyBias:
    bias = key_bias(size, mask, dtype)
    assert isinstance(bias, KeyBias)
    return bias


def ordinary(size: Tensor | None, mask: Tensor | None = None, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The numbers of a bias."""
    like = mask if size is None else size
    assert like is not None
    bias = torch.zeros(like.shape, device=DEVICE) if size is None else size.log()
    return (bias if mask is None else bias.masked_fill(~mask, -torch.inf)).to(dtype)[:, None, None, :]


def is_ordinary(tensor: Any) -> bool:
    return type(tensor) is Tensor


@pytest.mark.parametrize("dtype", HALVES)
def test_it_has_the_numbers_of_a_bias(dtype: torch.dtype) -> None:
    size, mask = sizes(2, 13), masks(2, 13)
    size[:, 5] = 0
    for given in ((size, None), (None, mask), (size, mask), (size.clone().requires_grad_(), mask)):
        bias = made(*given, dtype=dtype)
        assert bias.shape == (2, 1, 1, 13) and bias.dtype == dtype and bias.device == size.device
        plain = bias + 0
        assert is_ordinary(plain) and torch.equal(plain, ordinary(*given, dtype=dtype))


def test_only_halves_have_it() -> None:
    size = sizes(2, 13)
    for dtype in (torch.float32, torch.float64):
        bias = key_bias(size, None, dtype)
        assert is_ordinary(bias) and torch.equal(bias, ordinary(size, dtype=dtype))
    assert key_bias(None, None, torch.bfloat16) is None


def test_what_is_made_of_it_is_ordinary() -> None:
    size, mask = sizes(2, 13), masks(2, 13)
    logits = normal(2, 3, 13, 13)
    for got, want in (
        (logits + made(size, mask), logits + ordinary(size, mask)),
        (made(size, mask) + logits, ordinary(size, mask) + logits),
        (made(size, mask)[..., 2:], ordinary(size, mask)[..., 2:]),
        (made(size, mask)[:, 0, 0], ordinary(size, mask)[:, 0, 0]),
        (made(size, mask)[:1], ordinary(size, mask)[:1]),
        (made(size, mask)[[1, 0]], ordinary(size, mask)[[1, 0]]),
        (made(size, mask).flip(3), ordinary(size, mask).flip(3)),
        (made(size[:, :1]).expand(2, 3, 4, 5), ordinary(size[:, :1]).expand(2, 3, 4, 5)),
        (torch.cat([made(size, mask)] * 2, 3), torch.cat([ordinary(size, mask)] * 2, 3)),
        (torch.where(mask[:, None, None], made(size), 0), torch.where(mask[:, None, None], ordinary(size), 0)),
    ):
        assert is_ordinary(got) and torch.equal(got, want)
    assert all(is_ordinary(part) for part in made(size).unbind(0))


def test_what_has_the_same_keys_still_counts(uses: list[Any]) -> None:
    size, x = sizes(2, 13), normal(2, 3, 13, 8)
    want = kernels.attention(x, x, x, size, None, None)
    uses.clear()
    for same in (
        made(size)[:, :, :, :13],
        made(size)[:],
        made(size).to(torch.float32),
        made(size).to(DEVICE),
        made(size).expand(2, 3, 13, 13),
        made(size).expand(-1, -1, 13, -1)[:, :, :5].to(torch.float16),
    ):
        assert torch.equal(scaled_dot_product_attention(x, x, x, same), want)
    assert len(uses) == 6


def test_who_writes_into_it_is_heard(uses: list[Any]) -> None:
    size, x = sizes(2, 13), normal(2, 3, 13, 8)
    want = scaled_dot_product_attention(x, x, x, ordinary(size) * 0)
    for written in (made(size) for _ in range(3)):
        if uses:
            written.zero_()
        written *= 0
        assert torch.equal(scaled_dot_product_attention(x, x, x, written), want)
    changed = made(size)
    changed[...] = 0
    assert torch.equal(scaled_dot_product_attention(x, x, x, changed), want)
    changed = made(size)
    changed.masked_fill_(changed > -1, 0)
    assert torch.equal(scaled_dot_product_attention(x, x, x, changed), want) and not uses


class Other(Tensor):
    """Somebody else's tensor."""


def test_somebody_elses_tensor_stays_theirs(uses: list[Any]) -> None:
    size, x = sizes(2, 13), normal(2, 3, 13, 8)
    logits = normal(2, 3, 13, 13)
    for got in (logits.as_subclass(Other) + made(size), made(size) + logits.as_subclass(Other)):
        assert type(got) is Other and torch.equal(got.as_subclass(Tensor), logits + ordinary(size))
    got = scaled_dot_product_attention(x.as_subclass(Other), x, x, made(size))
    assert type(got) is Other and not uses
    assert torch.equal(got.as_subclass(Tensor), scaled_dot_product_attention(x, x, x, ordinary(size)))


@pytest.mark.parametrize("dtype", HALVES)
def test_attention_with_it_is_the_kernels(dtype: torch.dtype, uses: list[Any]) -> None:
    query, key, value = (normal(2, 3, n, 8, seed=seed, dtype=dtype) for seed, n in enumerate((5, 13, 13)))
    size, mask = sizes(2, 13), masks(2, 13)
    for given in ((size, None), (None, mask), (size, mask)):
        bias, want = made(*given, dtype=dtype), kernels.attention(query, key, value, *given, 0.7)
        uses.clear()
        options: dict[str, Any] = {"dropout_p": 0.0, "is_causal": False, "scale": 0.7}
        got = [
            scaled_dot_product_attention(query, key, value, bias, scale=0.7),
            scaled_dot_product_attention(query, key, value, bias, 0.0, False, scale=0.7),
            scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True, **options),
            scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=bias, **options),
        ]
        assert all(is_ordinary(each) and torch.equal(each, want) for each in got) and len(uses) == 4


def test_attention_that_the_kernel_has_not_is_pytorchs(uses: list[Any]) -> None:
    size, x = sizes(2, 13), normal(2, 4, 13, 8)
    wide, few = normal(2, 4, 13, 136), normal(2, 2, 13, 8)
    one = normal(1, 4, 13, 8)
    for tensors, options in (
        ((x.float(), x.float(), x.float()), {}),
        ((wide, wide, wide), {}),
        ((x, x, x[..., :4]), {}),
        ((x, few, few), {"enable_gqa": True}),
        ((x, one, one), {}),
    ):
        dtype = tensors[0].dtype
        bias = made(size).to(dtype)
        want = scaled_dot_product_attention(*tensors, ordinary(size).to(dtype), **options)
        assert torch.equal(scaled_dot_product_attention(*tensors, bias, **options), want)
    torch.manual_seed(0)
    want = scaled_dot_product_attention(x, x, x, ordinary(size), 0.5)
    torch.manual_seed(0)
    assert torch.equal(scaled_dot_product_attention(x, x, x, made(size), 0.5), want)
    with contextlib.suppress(RuntimeError):  # a mask and causal: some versions of PyTorch refuse it
        scaled_dot_product_attention(x, x, x, made(size), is_causal=True)
    assert not uses


def test_sizes_that_learn_have_their_gradient(uses: list[Any]) -> None:
    size, x = sizes(2, 13).requires_grad_(), normal(2, 4, 13, 8).requires_grad_()
    of_size = []
    for bias in (made(size), ordinary(size)):
        out = scaled_dot_product_attention(x, x, x, bias)
        of_size.append(torch.autograd.grad(out.float().square().sum(), size)[0])
    assert torch.equal(*of_size) and of_size[0].any() and not uses


# Models of timm


def build(family: str, dtype: torch.dtype, **options: Any) -> Any:
    return timm_cases.build(family, **options).to(DEVICE, dtype)


def images(dtype: torch.dtype, batch: int = 2) -> Tensor:
    pictures: Tensor = timm_cases.images(batch).to(DEVICE, dtype)
    return pictures


OURS = [family for family, (_, _, ours) in timm_cases.FAMILIES.items() if ours is not None]
MERGED = [
    (family, merging, dtype)
    for family in OURS
    for merging in timm_cases.MERGINGS
    for dtype in HALVES
    if timm_cases.fits(family, merging) and (dtype == torch.bfloat16 or family == "vit")
]


def own(model: Any, family: str, merging: str) -> Any:
    """Our network with the weights of a patched model."""
    options = timm_cases.OURS | (timm_cases.FAMILIES[family][2] or {})
    config = ViTConfig(**options, merging=timm_cases.MERGINGS[merging][2])
    parameter = next(model.parameters())
    network = get_vit(config, backend="torch").to(parameter.device, parameter.dtype)
    network.load_state_dict(model.state_dict())
    return network.eval()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own network in the steps of a patched one, which rounds in between."""
    monkeypatch.setattr(kernels, "merge_normalized", lambda *_: None)
    monkeypatch.setattr(PatchEmbed, "product", lambda self, images: self.proj(images).flatten(2).transpose(1, 2))


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(("family", "merging", "dtype"), MERGED)
def test_is_our_own_network_to_the_last_bit(family: str, merging: str, dtype: torch.dtype, uses: list[Any]) -> None:
    name, options, _ = timm_cases.MERGINGS[merging]
    model, x = build(family, dtype), images(dtype)
    handle = patch(model, name, **options)
    with torch.no_grad():
        got, theirs = model(x), list(uses)
        uses.clear()
        want = own(model, family, merging)(x)
    biased = {"tome": 2, "ats": 2}.get(merging, 0)  # the first block has nothing to count
    assert len(theirs) == len(uses) == biased
    for plan, expected in zip(handle.plans, want.plans, strict=True):
        assert (plan is None) == (expected is None)
        assert plan is None or torch.equal(plan.matrix(), expected.matrix())
    assert torch.equal(got, want.logits)


@pytest.mark.parametrize("family", ["eva", "eva, mixed", "eva, mean", "siglip"])
def test_other_families_use_it(family: str, uses: list[Any]) -> None:
    model, x = build(family, torch.bfloat16), images(torch.bfloat16)
    with torch.no_grad(), patch(model, "tome", r=3):
        assert model(x).isfinite().all()
    assert len(uses) == (3 if family == "siglip" else 2)  # attention pooling, too
    assert all(size.shape == key.shape[::2] and mask is None for _, key, _, size, mask, _ in uses)


def test_attention_pooling_without_the_tokens_in_front_uses_it(uses: list[Any]) -> None:
    model, x = build("siglip", torch.bfloat16, class_token=True, depth=1), images(torch.bfloat16)
    model.pool_include_prefix = False
    with torch.no_grad(), patch(model, "tome", r=3) as handle:
        model(x)
    (_, key, _, size, _, _) = uses[-1]
    assert key.shape[2] in (13, 14) and torch.equal(size, handle.size[:, -key.shape[2] :])


def test_attention_that_is_not_fused_adds_it(uses: list[Any]) -> None:
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    added: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: added.append(args[0]))
    with torch.no_grad(), patch(model, "tome", r=3):
        model(x)
    assert not uses and len(added) == 3 and all(is_ordinary(weights) for weights in added)


def test_no_sizes_and_no_kernel_without_proportional_attention(uses: list[Any]) -> None:
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    with torch.no_grad(), patch(model, "tome", r=3, prop_attn=False):
        model(x)
    assert not uses


def test_dropout_of_weights_is_left_to_the_model(uses: list[Any]) -> None:
    model, x = build("vit", torch.bfloat16, attn_drop_rate=0.1).train(), images(torch.bfloat16)
    with patch(model, "tome", r=3):
        model(x).float().sum().backward()
    assert not uses


@pytest.mark.parametrize("family", ["vit", "qk norm"])
def test_autocast_decides_the_dtype(family: str, uses: list[Any]) -> None:
    model, x = build(family, torch.float32), images(torch.float32)
    patch(model, "tome", r=3)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        assert model(x).isfinite().all()
    assert len(uses) == 2
    assert all(tensor.dtype == torch.bfloat16 for arguments in uses for tensor in arguments[:3])
    with torch.no_grad():
        model(x)
    assert len(uses) == 2


def operators(graph: torch.fx.GraphModule) -> list[str]:
    """Every attention in a graph."""
    parts = (part for part in graph.modules() if isinstance(part, torch.fx.GraphModule))
    targets = [str(node.target) for part in parts for node in part.graph.nodes]
    return [target for target in targets if "attention" in target]


def compiled(model: Any, seen: list[str]) -> Any:
    from torch._dynamo.backends.debugging import aot_eager

    def noted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.extend(operators(graph))
        return aot_eager(graph, inputs)

    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=noted)


@pytest.mark.parametrize(("family", "merging"), [("vit", "tome"), ("vit", "ats"), ("siglip", "tome"), ("eva", "tome")])
def test_it_compiles_as_one_graph(family: str, merging: str) -> None:
    name, options, _ = timm_cases.MERGINGS[merging]
    model, x = build(family, torch.bfloat16), images(torch.bfloat16)
    seen: list[str] = []
    with torch.no_grad(), patch(model, name, **options):
        want = model(x)
        got = compiled(model, seen)(x)
    assert is_ordinary(got) and torch.equal(got, want)
    assert sum("attention_tokens" in target for target in seen) == (3 if family == "siglip" else 2), seen
    assert sum("scaled_dot_product" in target for target in seen) == 1, seen  # of the first block


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("merging", ["tome", "ats"])
def test_gradients_are_those_of_our_own_network(merging: str, uses: list[Any]) -> None:
    name, options, _ = timm_cases.MERGINGS[merging]
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    network = own(model, "vit", merging)
    patch(model, name, **options)
    model(x).float().square().sum().backward()
    assert len(uses) == 2
    network(x).logits.float().square().sum().backward()
    assert len(uses) == 4
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        assert torch.equal(gradients[name], parameter.grad), name


@pytest.mark.parametrize("merging", ["tome", "ats"])
def test_it_compiles_as_one_graph_forward_and_back(merging: str) -> None:
    name, options, _ = timm_cases.MERGINGS[merging]
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    twin, seen = copy.deepcopy(model), list[str]()
    for each in (model, twin):
        patch(each, name, **options)
    for result in (model(x), compiled(twin, seen)(x)):
        result.float().square().sum().backward()
    for (name, got), want in zip(twin.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(got.grad, want.grad), name
    assert sum("attention_gradients" in target for target in seen) == 2, seen


def test_it_maps_over_another_axis(uses: list[Any]) -> None:
    size, x = sizes(3, 2, 13), normal(3, 2, 4, 13, 8)

    def attended(size: Tensor, x: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x, x, key_bias(size, None, x.dtype))

    want = torch.stack([attended(*each) for each in zip(size, x, strict=True)])
    uses.clear()
    assert torch.equal(torch.vmap(attended)(size, x), want) and len(uses) == 1
    model, pictures = build("vit", torch.bfloat16), images(torch.bfloat16, 4).unflatten(0, (2, 2))
    with torch.no_grad(), patch(model, "tome", r=3):
        assert torch.vmap(model)(pictures).isfinite().all()
    assert len(uses) == 3


def test_a_transform_has_its_derivatives(uses: list[Any]) -> None:
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,)).float().square().mean()

    with patch(model, "tome", r=3):
        gradients = torch.func.grad(loss)(parameters)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
    assert not uses


def test_a_program_that_is_exported_runs_without_us() -> None:
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    with patch(model, "tome", r=3):
        program = torch.export.export(model, (x,))
    assert not any("tokenmerge" in str(node.target) for node in program.graph.nodes)


# On a GPU alone


@pytest.mark.gpu
@pytest.mark.parametrize("merging", ["tome", "ats"])
def test_a_patched_model_is_captured_in_a_cuda_graph(merging: str) -> None:
    name, options, _ = timm_cases.MERGINGS[merging]
    model, x = build("vit", torch.bfloat16), images(torch.bfloat16)
    with torch.no_grad(), patch(model, name, **options):
        want = model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = model(x)
        graph.replay()
    assert torch.equal(got, want)


@pytest.mark.gpu
def test_rows_of_a_bias_are_aligned() -> None:
    """In float32 PyTorch's attention has it, and would copy other rows."""
    bias = key_bias(sizes(2, 13), masks(2, 13), torch.float32)
    assert bias is not None and is_ordinary(bias) and all(stride % 8 == 0 for stride in bias.stride()[:3])
    assert torch.equal(bias, ordinary(sizes(2, 13), masks(2, 13), torch.float32))
