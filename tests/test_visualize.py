"""What the picture of a network shows is what its composed plan says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit, models
from tokenmerge.backends import get_backend
from tokenmerge.cli import app
from tokenmerge.commands.merging import merging_from_options, network_options
from tokenmerge.spec import plan as spec_plan
from tokenmerge.spec.shared.vit_parameters import initial_parameters, parameter_shapes

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from tokenmerge import visualize  # noqa: E402
from tokenmerge.pictures import photo  # noqa: E402  # they need matplotlib and Pillow
from tokenmerge.visualize import layers, network, picture  # noqa: E402

Array = np.ndarray[Any, Any]

SMALL: dict[str, Any] = dict(image_size=32, patch_size=4, dim=16, depth=3, heads=2, num_classes=5)
MIXTURE = {0: ATSMerging((40,)), 1: ToMeMerging(r=9), 2: LTMMerging(0.5, around=None)}
HARD = {0: ToMeMerging(r=9), 1: ATSMerging((40,)), 2: ToMeMerging(r=5)}
NETWORKS: dict[str, dict[str, Any]] = {
    "none": {},
    "tome": {"merging": ToMeMerging(r=9)},
    "tome, registers": {"register_tokens": 3, "merging": ToMeMerging(r=9)},
    "tome, nothing protected": {"merging": ToMeMerging(r=9, protected=0)},
    "ats": {"merging": ATSMerging((40, 40, 20))},
    "patch_merger": {"merging": PatchMergerMerging(), "pool": "mean"},
    "ltm": {"merging": LTMMerging(0.5, around=None)},
    "hard mixture": {"merging": HARD},
    "mixture": {"merging": MIXTURE},
}
small_test = models.Preset(dict(SMALL))


def seen(config: ViTConfig) -> Array:
    return photo.load_photo(None, config.image_shape)


def drawn(config: ViTConfig, backend: str = "spec") -> tuple[Any, list[layers.Layer]]:
    output = network.forward(config, seen(config), backend, None)
    return output, layers.layers(output, get_backend(backend).to_numpy, config.prefix_tokens)


# Groups


@pytest.mark.parametrize("name", NETWORKS)
def test_patches_are_where_the_composed_plan_has_them(name: str) -> None:
    config = ViTConfig(**SMALL, **NETWORKS[name])
    output, (*_, last) = drawn(config)
    matrix = output.plan.matrix()[0][:, config.prefix_tokens :]
    assert last.owner.shape == (64,)
    for patch, owner in enumerate(last.owner):
        column = matrix[:, patch]
        assert column[owner] == column.max() > 0 if owner >= 0 else not column.any()
    assert last.dense == (name in ("patch_merger", "ltm", "mixture"))
    real = output.plan.mask
    assert last.tokens == (output.plan.num_tokens_out if real is None else real.sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_there_is_a_layer_for_every_block_that_merges(name: str) -> None:
    config = ViTConfig(**SMALL, **NETWORKS[name])
    output, found = drawn(config)
    merging = [block + 1 for block, plan in enumerate(output.plans) if plan is not None]
    assert [layer.blocks for layer in found] == (merging or [3])
    for layer in found:  # and it is the last one of the network that ends there
        shorter = output._replace(plans=output.plans[: layer.blocks], sizes=output.sizes[: layer.blocks])
        matrix = shorter.plan.matrix()[0][:, config.prefix_tokens :]
        kept = layer.owner >= 0
        assert (matrix[layer.owner[kept], kept] == matrix.max(axis=0)[kept]).all()
        assert not matrix[:, ~kept].any()


def test_groups_only_grow_and_what_is_dropped_stays_dropped() -> None:
    _, found = drawn(ViTConfig(**SMALL, merging=HARD))
    for before, after in pairwise(found):
        assert (after.owner[before.owner < 0] == -1).all()
        for slot in set(before.owner[before.owner >= 0]):
            assert len(set(after.owner[before.owner == slot])) == 1


@pytest.mark.parametrize("name", ["none", "tome", "ats", "hard mixture"])
def test_no_matrix_is_made_of_a_plan_that_has_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViTConfig(**SMALL, **NETWORKS[name])
    output = network.forward(config, seen(config), "spec", None)

    def refuse(*_: Any) -> None:
        raise AssertionError("a matrix of a partition or a selection")

    for kind in (spec_plan.PartitionPlan, spec_plan.SelectionPlan):
        monkeypatch.setattr(kind, "matrix", refuse)
    assert layers.layers(output, np.asarray, config.prefix_tokens)


@pytest.mark.parametrize(
    ("name", "depth", "backend"),
    [
        *((name, 3, backend) for name in ("tome", "ats", "mixture") for backend in ("numpy", "torch")),
        ("tome", 1, "jax"),
    ],
)
def test_every_backend_draws_the_same_layers(name: str, depth: int, backend: str) -> None:
    if any(find_spec(module) is None for module in {"torch": ("torch",), "jax": ("jax", "flax")}.get(backend, ())):
        pytest.skip(f"needs {backend}")
    config = ViTConfig(**SMALL | {"image_size": (16, 24), "depth": depth}, **NETWORKS[name])
    (_, ours), (_, reference) = drawn(config, backend), drawn(config)
    assert [(layer.blocks, layer.owner.shape, layer.dense) for layer in ours] == [
        (layer.blocks, layer.owner.shape, layer.dense) for layer in reference
    ]
    if name == "tome":
        assert [layer.tokens for layer in ours] == [layer.tokens for layer in reference]


# The image that a network gets


@pytest.mark.parametrize("name", network.NORMALIZATIONS)
def test_the_image_is_normalized(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = fed(monkeypatch, ViTConfig(**SMALL), name)
    mean, deviation = (np.array(each) for each in network.NORMALIZATIONS[name])
    assert given.dtype == np.float32 and given.shape == (1, 32, 32, 3)
    assert (given[0] == ((seen(ViTConfig(**SMALL)) - mean) / deviation).astype(np.float32)).all()


def test_a_network_of_one_channel_sees_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fed(monkeypatch, ViTConfig(**SMALL, channels=1), "none").shape == (1, 32, 32, 1)


def test_a_network_of_two_channels_is_refused() -> None:
    config = ViTConfig(**SMALL, channels=2)
    with pytest.raises(ValueError, match="visualize: `config` must have 1 or 3 channels, got 2"):
        network.forward(config, seen(config), "spec", None)


def fed(monkeypatch: pytest.MonkeyPatch, config: ViTConfig, normalization: str) -> Array:
    """What `forward` gives to the model."""
    got: list[Array] = []
    monkeypatch.setattr(network, "get_vit", lambda config, backend: got.append)
    network.forward(config, seen(config), "spec", None, normalization)
    return got[0]


# Options


@pytest.mark.parametrize(
    ("merger", "options", "merging"),
    [
        ("tome", {"r": "16"}, ToMeMerging(r=16)),
        ("tome", {"r": 4}, ToMeMerging(r=4)),
        ("tome", {"r": "16, 8,0"}, ToMeMerging(r=[16, 8, 0])),
        ("ats", {"max_tokens": "100,50"}, ATSMerging((100, 50))),
        ("ats", {"max_tokens": 100}, ATSMerging(100)),
        ("patch_merger", {"num_tokens_out": 8}, PatchMergerMerging(num_tokens_out=8)),
        ("ltm", {"compression_ratio": 0.5}, LTMMerging(0.5)),
        ("none", {}, None),
    ],
)
def test_options_say_the_merging(merger: str, options: dict[str, Any], merging: Any) -> None:
    made = merging_from_options(merger, **options)
    assert made == merging
    ViTConfig(**SMALL, **network_options(made))


def test_patch_merger_loads_the_checkpoint_of_a_class_token_network() -> None:
    pooling = ViTConfig(**SMALL, **network_options(PatchMergerMerging()))
    get_vit(pooling, backend="spec").load_params(initial_parameters(ViTConfig(**SMALL)))


# Models


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as many as timm's documentation gives them
        ("vit_tiny_patch16_224", 5_717_416),
        ("vit_small_patch16_224", 22_050_664),
        ("vit_base_patch16_224", 86_567_656),
        ("vit_large_patch16_224", 304_326_632),
        ("deit_base_distilled_patch16_224", 87_338_192),
    ],
)
def test_presets_have_the_parameters_of_timm(name: str, parameters: int) -> None:
    shapes = parameter_shapes(models.vit_config(name)).values()
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters


def test_every_preset_is_a_network_with_a_normalization() -> None:
    for name, preset in models.PRESETS.items():
        assert models.vit_config(name).num_tokens > 1
        assert preset.normalization in network.NORMALIZATIONS


# The command


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.PRESETS, "small_test", small_test)


def invoke(*arguments: str | Path) -> Any:
    given = ["visualize", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(app, [*given, "--model", "small_test", "--backend", "spec"])


@pytest.mark.usefixtures("preset")
def test_the_command_draws_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels: list[tuple[str, str]] = []
    add = picture.Panels.add
    monkeypatch.setattr(picture.Panels, "add", lambda self, *text: panels.append(text) or add(self, *text))
    Image.fromarray(np.arange(90 * 50 * 3, dtype=np.uint8).reshape(50, 90, 3)).save(tmp_path / "photo.png")
    out = tmp_path / "groups.png"
    result = invoke(tmp_path / "photo.png", "--merger", "tome", "--r", "9", "--layers", "--out", out)
    assert result.exit_code == 0, result.output
    assert "random" in result.stdout and f"65 → 38 tokens. The picture is in {out}." in result.stdout
    assert panels == [
        ("Image", "8 × 8 patches + 1 in front = 65 tokens"),
        ("After 1 block", "56 tokens, groups in mean colour"),
        ("After 2 blocks", "47 tokens, groups in mean colour"),
        ("After 3 blocks", "38 tokens, groups in mean colour"),
    ]
    with Image.open(out) as written:
        assert written.width > 3 * written.height


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("merger", "option", "note"),
    [
        ("tome", ["--r", "9"], "groups in mean colour"),
        ("ats", ["--max-tokens", "40,40,20"], "patches that are kept"),
        ("patch_merger", ["--num-tokens-out", "8"], "groups by strongest weight"),
        ("ltm", ["--compression-ratio", "0.5"], "groups by strongest weight"),
        ("none", [], "groups in mean colour"),
    ],
)
def test_every_merger_is_drawn(merger: str, option: list[str], note: str, tmp_path: Path) -> None:
    result = invoke("--merger", merger, *option, "--out", tmp_path / "groups.svg")
    assert result.exit_code == 0, result.output
    assert note in (tmp_path / "groups.svg").read_text()


@pytest.mark.usefixtures("preset")
def test_weights_are_loaded_with_their_own_number_of_classes(tmp_path: Path) -> None:
    for classes in (3, 0):
        config = ViTConfig(**SMALL | {"num_classes": classes})
        save_file(initial_parameters(config, seed=1), tmp_path / "weights.safetensors")
        result = invoke("--r", "9", "--weights", tmp_path / "weights.safetensors", "--out", tmp_path / "groups.svg")
        assert result.exit_code == 0, result.output
        assert "random" not in result.stdout


def test_weights_that_come_with_a_model_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(initial_parameters(ViTConfig(**SMALL), seed=1), tmp_path / "weights.safetensors")
    monkeypatch.setitem(models.PRESETS, "small_test", small_test._replace(weights="weights.safetensors"))
    monkeypatch.setattr(models, "PACKAGE", tmp_path)
    result = invoke("--r", "9", "--out", tmp_path / "groups.png")
    assert result.exit_code == 0 and "random" not in result.stdout


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.jpg"], "visualize: `image` must be a file, got 'none.jpg', which is not there"),
        (["text.png"], "visualize: `image` must be a picture that Pillow can read, got 'text.png'"),
        (["--out", "none/x.png"], "visualize: `out` must be a file in a folder that exists, got 'none/x.png'"),
        (
            ["--weights", "none.safetensors"],
            "visualize: `weights` must be a file, got 'none.safetensors', which is not one",
        ),
        (
            ["--weights", "text.png"],
            "visualize: `weights` must be a safetensors file of NumPy's dtypes, got 'text.png'",
        ),
        (
            ["--weights", "other.safetensors"],
            "vit: `params` must fit the configuration, got missing: cls_token, pos_embed, patch_embed.proj.weight, "
            "patch_embed.proj.bias, blocks.0.norm1.weight and 37 more; unexpected: x",
        ),
        (
            ["--normalize", "haf"],
            "visualize: `normalize` must be one of 'imagenet', 'half', 'none', 'digits', got 'haf'",
        ),
        (["--merger", "ltm"], "visualize: `r` must be left out with the merger ltm, which takes `compression-ratio`"),
        (["--merger", "none"], "visualize: `r` must be left out with the merger none, which takes no option"),
        (["--r", "many"], "visualize: `r` must be integers with commas between, got 'many'"),
        (["--r", "40"], "ToMeMerging: `r` must be at most 32, half of the 64 tokens that may merge, got 40"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    save_file({"x": np.zeros(2)}, "other.safetensors")
    before = set(os.listdir())
    result = invoke("--r", "9", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.strip().startswith(sentence)
    assert set(os.listdir()) == before


def test_an_option_that_is_missing() -> None:
    with pytest.raises(ValueError, match="merging: `max-tokens` must be given with the merger ats"):
        merging_from_options("ats")


def test_a_model_that_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"visualize: `model` must be a known name, got 'deit_tiny' \("):
        visualize.run(None, model="deit_tiny", merger="tome", out=tmp_path / "x.png", r=4)


def test_how_to_install_what_it_needs() -> None:
    code = "import sys; sys.modules['PIL'] = None; sys.argv[1:] = ['visualize', '--r', '1']; "
    run = subprocess.run(
        [sys.executable, "-c", f"{code} from tokenmerge.cli import main; main()"], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr == "visualize needs matplotlib and pillow: pip install matplotlib pillow\n"
