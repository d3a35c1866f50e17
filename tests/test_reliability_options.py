"""Options and helpers under attack: nonsense is refused in one sentence, the same in every backend."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_merger, get_vit
from tokenmerge.backends import get_backend
from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_integer, check_real, dtype_name

BACKENDS = ("numpy", "torch", "jax", "spec")
HUGE = 10**400


class Odd:
    """An object whose `repr` raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def said(function: Callable[[], Any]) -> str:
    """The one sentence of a refusal."""
    with pytest.raises((TypeError, ValueError)) as found:
        function()
    sentence = str(found.value)
    assert "\n" not in sentence and ": `" in sentence and ", got " in sentence, sentence
    return sentence


def test_no_integer() -> None:
    days = np.timedelta64(3, "D")
    for value in ("1", None, 1.5, True, days, HUGE, 10**5000, -1, [1], Odd(), 1j, np.nan):
        sentence = said(lambda value=value: check_integer("tome", "r", value, minimum=0))
        assert sentence.startswith("tome: `r` must be an integer")


def test_integers_of_numpy_become_ours() -> None:
    assert type(check_integer("tome", "r", np.uint8(7), minimum=0)) is int


@pytest.mark.parametrize(
    "value", ["1", None, True, np.nan, HUGE, -HUGE, Fraction(HUGE), [1.0], Odd(), 1j, np.timedelta64(1)]
)
def test_no_number(value: Any) -> None:
    assert said(lambda: check_real("ltm", "x", value, 0.0, 1.0, "(0, 1]")).startswith("ltm: `x` must be a number in")


@pytest.mark.parametrize("value", ["False", 0, 1, None, np.array([True, False]), "no", 3])
def test_neither_true_nor_false(value: Any) -> None:
    assert said(lambda: check_flag("a", "b", value)).startswith("a: `b` must be True or False")


@pytest.mark.parametrize(
    "value", [np.array([1, 2]), None, ["x"], Odd(), b"x", "X" * 1000, {}], ids=lambda value: type(value).__name__
)
def test_no_choice(value: Any) -> None:
    assert len(said(lambda: check_choice("a", "b", value, ("x", "y")))) < 200


def test_names_of_dtypes_are_whole_words() -> None:
    class Quantized:
        dtype = "torch.quint8"

    assert dtype_name(Quantized()) == "torch.quint8"


MERGERS: list[tuple[str, dict[str, Any]]] = [
    ("patch_merger", {"dim": 4, "num_tokens_out": 2, "eps": HUGE}),
    ("patch_merger", {"dim": 4, "num_tokens_out": 2, "normalize": "no"}),
    ("patch_merger", {"dim": 4, "num_tokens_out": 2, "use_bias": "False"}),
    ("patch_merger", {"dim": np.timedelta64(3, "D"), "num_tokens_out": 2}),
    ("patch_merger", {"dim": HUGE, "num_tokens_out": 2}),
    ("tome", {"r": HUGE}),
    ("tome", {"r": 1, "order": np.array([1, 2])}),
    ("tome", {"r": 1, "matching": None}),
    ("ats", {"max_tokens": 3, "score": ["per_head"]}),
]


@pytest.mark.parametrize(("name", "options"), MERGERS, ids=lambda value: str(value)[:40])
def test_options_of_mergers(name: str, options: dict[str, Any]) -> None:
    if options.get("compression_ratio") == Fraction(1, HUGE):
        pytest.skip("a number in the interval, however small")
    assert (
        len({said(lambda backend=backend: get_merger(name, backend=backend, **options)) for backend in BACKENDS}) == 1
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_integers_are_integers(backend: str) -> None:
    module = get_backend(backend)
    x = module.from_numpy(np.random.default_rng(0).standard_normal((1, 300, 4)).astype("f4"))
    assert get_merger("tome", backend=backend, r=np.uint64(2), protected=np.int8(1))(x).tokens.shape == (1, 298, 4)
    merger = get_merger("ltm", backend=backend, dim=np.int8(4), compression_ratio=0.5, protected=np.uint8(1))
    assert merger(x).tokens.shape == (1, 151, 4)


CONFIGS: list[dict[str, Any]] = [
    {"qkv_bias": "False"},
    {"class_token": 3},
    {"distillation_token": 2},
    {"layer_scale": "abc"},
    {"image_size": (32,)},
    {"image_size": [32, 32]},
    {"merging": {0.5: ToMeMerging(r=1)}},
    {"merging": {"0": ToMeMerging(r=1)}},
    {"merging": {True: ToMeMerging(r=1)}},
    {"merging": 5},
    {"norm_eps": HUGE},
    {"depth": np.timedelta64(3, "D")},
    {"fc_norm": "yes"},
    {"pool": np.array(["mean"])},
]


@pytest.mark.parametrize("options", CONFIGS, ids=lambda value: str(value)[:40])
def test_configurations(options: dict[str, Any]) -> None:
    assert said(lambda: ViTConfig(**options)).startswith("ViTConfig: ")


MERGINGS: list[Callable[[], Any]] = [
    lambda: ATSMerging(None),  # type: ignore[arg-type]
    lambda: ATSMerging("12"),  # type: ignore[arg-type]
    lambda: ATSMerging((0,)),
    lambda: ToMeMerging(r=1, prop_attn="x"),  # type: ignore[arg-type]
    lambda: ToMeMerging(r="x"),  # type: ignore[arg-type]
    lambda: ToMeMerging(r=(1, 2, 3)),  # type: ignore[arg-type]
    lambda: ToMeMerging(r=[1, -1]),
    lambda: LTMMerging(compression_ratio="abc"),  # type: ignore[arg-type]
    lambda: PatchMergerMerging(layer="1"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("merging", MERGINGS)
def test_mergings(merging: Callable[[], Any]) -> None:
    said(merging)


def helpers(module: Any, spec: bool) -> dict[str, Callable[[], Any]]:
    """Calls of helpers that are refused, by what is wrong; the spec has no batch and draws nothing."""

    def array(*shape: int, dtype: str = "f4") -> Any:
        return module.from_numpy(np.ones(shape[1:] if spec and len(shape) > 2 else shape, dtype))

    q, x = array(1, 2, 3, 4), array(1, 3, 4)
    attention = module.attention
    return {
        "scale is text": lambda: attention.attention(q, q, q, scale="3"),
        "scale is NaN": lambda: attention.attention(q, q, q, scale=np.nan),
        "scale is true": lambda: attention.attention_weights(q, q, scale=True),
        "normalize a list": lambda: module.tome.normalize([1.0]),
        "normalize integers": lambda: module.tome.normalize(array(1, 3, 4, dtype="i4")),
        "no score": lambda: module.ats.scores(array(1, 2, 3), q, score="x"),
        "eps of layer_norm": lambda: module.patch_merger.layer_norm(x, array(4), eps=-1.0),
        "scale of layer_norm": lambda: module.patch_merger.layer_norm(x, array(5)),
        "chain of nothing": lambda: module.ltm.chain(None),
        "beta is NaN": lambda: module.information_bottleneck.cluster_scores(array(2, 3), array(2, 3), np.nan),
        "pooled text": lambda: module.pooling.mean_pool("x"),
    }


def test_helpers_say_the_same_everywhere() -> None:
    import tokenmerge.spec as rooms
    from tokenmerge.spec import ats, attention, information_bottleneck, ltm, patch_merger, pooling, tome

    class Spec:
        from_numpy = staticmethod(np.asarray)

    for room in (ats, attention, information_bottleneck, ltm, patch_merger, pooling, tome):
        setattr(Spec, room.__name__.rpartition(".")[2], room)
    want = {name: said(call) for name, call in helpers(Spec, True).items()}
    for backend in ("numpy", "torch", "jax"):
        got = {name: said(call) for name, call in helpers(get_backend(backend), False).items()}
        assert {name: text.replace("(B, ", "(").replace("plan of", "plan of") for name, text in got.items()} == want
    assert rooms.__name__ == "tokenmerge.spec"


@pytest.mark.parametrize("backend", ("numpy", "torch", "jax"))
def test_draws_and_conversions(backend: str) -> None:
    module = get_backend(backend)
    for call in (
        lambda: module.tome.draw_permutation("x", 1, 2),
        lambda: module.ats.draw_uniforms(5, 1, 2),
        lambda: module.from_numpy([1, 2]),
        lambda: module.from_numpy(np.ones(2), "float3"),
        lambda: module.from_numpy(np.ones(2), None, "nowhere"),
    ):
        said(call)


def test_odd_arrays_of_numpy() -> None:
    x = np.ones((1, 4, 3), "f4")
    merger = get_merger("tome", r=1)
    for odd in (np.ma.masked_array(x), np.asmatrix(x[0]), x.view(np.recarray)):
        assert "must be a plain array of this backend" in said(lambda odd=odd: merger(odd))
    merger(np.array(x))


def test_odd_tensors() -> None:
    x = torch.ones(1, 4, 3)
    merger = get_merger("tome", backend="torch", r=1)
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    nested = torch.nested.nested_tensor([x[0], x[0]])
    for odd in (x.to_sparse(), x.to_mkldnn(), quantized, nested):
        assert "must be a plain array of this backend" in said(lambda odd=odd: merger(odd))
    assert said(lambda: merger(x, mask=torch.ones(1, 4, dtype=torch.bool, device="meta"))) == (
        "tome: `mask` must be on the device of `metric`, which is cpu, got meta"
    )
    assert merger(x.to("meta")).tokens.shape == (1, 3, 3)
    assert "`dropout` must be a number in [0, 1]" in said(
        lambda: get_backend("torch").attention.attention(x[None], x[None], x[None], dropout=2)
    )


def test_an_empty_batch_passes_every_network() -> None:
    small: dict[str, Any] = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 2, "heads": 2, "num_classes": 3}
    for merging in (None, ToMeMerging(r=1), ATSMerging((2,)), PatchMergerMerging(num_tokens_out=2), LTMMerging(0.5)):
        pool = {"pool": "mean"} if isinstance(merging, PatchMergerMerging) else {}
        network = get_vit(ViTConfig(**small, **pool, merging=merging), backend="torch").eval()
        assert network(torch.zeros(0, 3, 8, 8)).logits.shape == (0, 3)


def test_plans_are_read_with_weights_only(tmp_path: Any) -> None:
    made = get_merger("tome", backend="torch", r=1)(torch.randn(1, 4, 3))
    torch.save(made, tmp_path / "plan.pt")
    again = torch.load(tmp_path / "plan.pt", weights_only=True)
    assert torch.equal(again.plan.assignment, made.plan.assignment)
    assert torch.equal(pickle.loads(pickle.dumps(made)).tokens, made.tokens)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ltm", {"compression_ratio": "abc"}), ("ats", {"max_tokens": 3}), ("tome", {"r": 1, "prop_attn": "x"})],
)
def test_options_of_patch(name: str, options: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm")
    from tokenmerge import patch

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    said(lambda: patch(model, name, **options))
