"""Options and helpers under attack: nonsense is refused in one sentence, the same in every backend."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from tokenmerge import (
    ATSMerging,
    LTMMerging,
    PatchMergerMerging,
    ToMeMerging,
    ViTConfig,
    export,
    get_merger,
    get_vit,
    load_params,
    merge_schedule,
    save_params,
)
from tokenmerge.backends import get_backend
from tokenmerge.clusters import centroids
from tokenmerge.models import preset, vit_config
from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_integer, check_real, dtype_name
from tokenmerge.spec.shared.flops import flops
from tokenmerge.spec.shared.schedule import (
    kth_tokens_out,
    kth_width,
    ltm_tokens_out,
    ltm_tokens_out_upto,
    tokens_removed,
)
from tokenmerge.spec.shared.vit_steps import steps
from tokenmerge.weights import convert_params

BACKENDS = ("numpy", "torch", "jax", "spec")
HUGE = 10**400
SMALL: dict[str, Any] = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "num_classes": 3}


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
    "value",
    [
        "1",
        None,
        True,
        np.nan,
        HUGE,
        -HUGE,
        Fraction(HUGE),
        Fraction(1, 2),
        np.longdouble(0.5),
        [1.0],
        Odd(),
        1j,
        np.timedelta64(1),
        np.array(0.5),
        Decimal(1),
    ],
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


def test_numbers_of_numpy_do_not_overflow_later() -> None:
    config = ViTConfig(
        dim=np.int8(64), heads=np.uint8(2), depth=np.int8(2), patch_size=np.uint8(16), dropout=np.float16(0)
    )
    assert (config.hidden_dim, type(config.dim), type(config.dropout)) == (256, int, float)
    assert flops(config) == flops(ViTConfig(dim=64, heads=2, depth=2))
    assert hash(config) == hash(ViTConfig(dim=64, heads=2, depth=2))
    assert merge_schedule(np.int8(100), 3, steps=1) == (0, 300, 0)
    assert merge_schedule((np.uint8(200), np.float16(1)), 2) == (0, 400)
    assert type(ToMeMerging(r=[np.int8(3)]).r[0]) is int
    assert type(PatchMergerMerging(num_tokens_out=np.uint8(3)).num_tokens_out) is int


NOTHING_TO_DO_WITH_IT: list[tuple[str, Callable[[Any], Any]]] = [
    ("flops", flops),
    ("steps", steps),
    ("get_vit", get_vit),
    ("convert_params", lambda value: convert_params({}, value)),
    ("preset", preset),
    ("preset", lambda value: vit_config(value) if not isinstance(value, int) else preset(value)),
    ("tokens_removed", lambda value: tokens_removed(value, 1)),
    ("tokens_removed", lambda value: tokens_removed(4, 1, matching=value)),
    ("kth_tokens_out", lambda value: kth_tokens_out(4, value)),
    ("kth_width", lambda value: kth_width(value, 2)),
    ("ltm_tokens_out", lambda value: ltm_tokens_out(value, 0.5)),
    ("ltm_tokens_out", lambda value: ltm_tokens_out(4, value)),
    ("ltm_tokens_out_upto", lambda value: ltm_tokens_out_upto(value, 0.5)),
    ("save_params", lambda value: save_params(get_merger("ltm", dim=2, compression_ratio=0.5), value)),
    ("load_params", lambda value: load_params(get_merger("ltm", dim=2, compression_ratio=0.5), value)),
    ("bottleneck_tracker", lambda value: centroids(value, 2, 0)),
    ("export", lambda value: export("tokenmerge:digits", value)),
    ("export", lambda value: export("tokenmerge:digits", "a.onnx", int8=value)),
    ("export", lambda value: export("tokenmerge:digits", "a.onnx", with_plans=value)),
    ("export", lambda value: export("tokenmerge:digits", "a.onnx", opset=value)),
    ("export", lambda value: export("tokenmerge:digits", "a.onnx", image_shape=value)),
    ("export", lambda value: export("tokenmerge:digits", "a.onnx", weights=value)),
]
NONSENSE: list[Any] = [5.5, -1, [], {}, 1j, b"1", np.array([1, 2]), Odd(), np.timedelta64(3, "D"), HUGE, int, "a\0b"]


@pytest.mark.parametrize(("name", "call"), NOTHING_TO_DO_WITH_IT)
def test_doors_without_arrays(name: str, call: Callable[[Any], Any]) -> None:
    for value in NONSENSE:
        sentence = said(lambda value=value: call(value))
        assert name in sentence.partition(": `")[0] or name == "preset", (value, sentence)


@pytest.mark.parametrize("parts", [{"embedding/kernel": 1}, {"embeddings.patch_embeddings.projection.weight": 1}])
def test_checkpoints_with_parts_that_are_no_arrays_or_of_other_axes(parts: dict[str, Any]) -> None:
    query = {"encoder.layer.0.attention.attention.query.weight": np.ones((2, 2), "f4")}
    for value in (None, "x", np.array("x"), np.ones(2, "f4"), np.ones((1, 2, 3), "f4")):
        given = {name: value for name in parts} | (query if "embedding/kernel" not in parts else {})
        assert said(lambda given=given: convert_params(given, ViTConfig(**SMALL))).startswith("convert_params: `")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_given_beside_the_tokens(backend: str) -> None:
    """Sizes that no composition needs are checked all the same; `to_numpy` takes arrays of its backend."""
    module = get_backend(backend)
    plan = get_merger("tome", backend=backend, r=0).plan(module.from_numpy(np.ones((2, 4, 3), "f4")))
    for size in ("x", [1.0], module.from_numpy(np.ones((2, 5), "f4")), module.from_numpy(np.ones((2, 4), "i4"))):
        assert said(lambda size=size: module.compose(plan, plan, size)).startswith("plan: `size` must ")
    odd = [None, "x", [1.0], plan, np.array(["a"]), np.ma.masked_array([1.0]), np.zeros(1, [("a", "f4")])]
    for array in (
        odd if backend != "torch" else [*odd[:4], np.ones(2), torch.ones(2, device="meta"), torch.ones(2) * 1j]
    ):
        assert said(lambda array=array: module.to_numpy(array)).startswith("to_numpy: `array` must ")


def test_tensors_of_two_devices_and_arrays_that_are_gone() -> None:
    x, elsewhere = torch.ones(1, 4, 3), torch.ones(1, 4, 3, device="meta")
    sentence = "tome: `metric` must be on the device of `x`, which is cpu, got meta"
    assert said(lambda: get_merger("tome", backend="torch", r=1)(x, metric=elsewhere)) == sentence
    jax = pytest.importorskip("jax")
    gone = jax.numpy.ones((1, 4, 3))
    gone.delete()
    assert "got an array that is deleted or was donated" in said(lambda: get_merger("tome", backend="jax", r=1)(gone))


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
        "no scale for no channels": lambda: attention.attention_weights(q[..., :0], q[..., :0]),
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
        lambda: module.from_numpy(np.ones(2), None, 1.5),
        lambda: module.from_numpy(np.array(["a"])),
        lambda: module.from_numpy(np.ones(2, np.longdouble)),
        lambda: module.from_numpy(np.ones(2, [("a", "f4")])),
        lambda: module.from_numpy(np.ones(2, "M8[D]")),
    ):
        said(call)
    swapped = np.arange(3, dtype=">f4")  # of a file from another machine
    assert module.to_numpy(module.from_numpy(swapped)).dtype.isnative
    assert module.to_numpy(module.from_numpy(swapped)).tolist() == [0, 1, 2]


def test_what_jax_alone_is_told() -> None:
    pytest.importorskip("jax")
    sizes = {"patch_merger": {"dim": 4, "num_tokens_out": 2}, "ltm": {"dim": 4, "compression_ratio": 0.5}}
    for name, options in sizes.items():
        for odd in (5, "x", [1]):
            assert "must be flax.nnx.Rngs or None" in said(
                lambda name=name, options=options, odd=odd: get_merger(name, backend="jax", rngs=odd, **options)
            )
        for odd in (torch.ones(2), np.float16(0.25), 0):
            assert "`dtype` must be one of" in said(
                lambda name=name, options=options, odd=odd: get_merger(name, backend="jax", dtype=odd, **options)
            )
    assert "must be flax.nnx.Rngs or None" in said(lambda: get_vit(ViTConfig(depth=1), backend="jax", rngs=5))


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
