"""`tokenmerge.export` and `tokenmerge export`: one complete file that agrees with eager PyTorch, or one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tokenmerge import LTMMerging, ToMeMerging, ViTConfig, export, get_vit, patch
from tokenmerge.cli import app

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("matplotlib")

from tokenmerge.deploy.check import agreement, photographs  # noqa: E402  # which need what is asked for above
from tokenmerge.deploy.deployed import gives_plan  # noqa: E402

DIGITS = "tokenmerge:digits"
MERGERS: dict[str, list[str]] = {"none": [], "tome": ["--r", "8"]}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["export", *arguments])


@pytest.mark.parametrize("merger", MERGERS)
def test_the_command_says_that_the_file_agrees(merger: str, tmp_path: Path) -> None:
    out = tmp_path / "digits.onnx"
    options = ["--merger", merger, *MERGERS[merger], "--seconds", "0.01", "--batch-size", "2"]
    done = run(DIGITS, "--out", str(out), *options)
    assert done.exit_code == 0, done.output
    assert "5 of 5 photographs get the same class" in done.output
    assert ("every decision is the same" in done.output) == (merger != "none")
    assert ("multiply-adds predict" in done.output) == (merger != "none")
    assert [each.name for each in tmp_path.iterdir()] == ["digits.onnx"]


def small(merger: str) -> Any:
    """A network of ours, small enough to be exported often."""
    merging = {"tome": ToMeMerging(r=3), "ltm": LTMMerging(0.8, around=None)}[merger]
    config = ViTConfig(image_size=16, patch_size=4, dim=16, depth=2, heads=2, num_classes=3, merging=merging)
    return get_vit(config, backend="torch").eval()


@pytest.mark.parametrize(("merger", "name", "axes"), [("tome", "assignment", 2), ("ltm", "weights", 3)])
def test_plans_come_out(merger: str, name: str, axes: int, tmp_path: Path) -> None:
    written = export(small(merger), tmp_path / "a.onnx", with_plans=True)
    logits, plan = written.load()(np.zeros((2, 3, 16, 16), np.float32))
    assert written.outputs == ("logits", name)
    assert logits.shape == (2, 3)
    assert plan.ndim == axes
    assert plan.shape[0] == 2
    assert plan.shape[-1] == 17


def test_there_is_no_plan_where_the_stream_keeps_all_tokens(tmp_path: Path) -> None:
    """LTM's plans act around the MLP of a patched model."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2, embed_dim=24).eval()
    patch(model, "ltm", compression_ratio=0.8)
    assert not gives_plan(model, (3, 48, 48))
    with pytest.raises(ValueError, match=r"^export: `with_plans` must be False for a model whose stream keeps all"):
        export(model, tmp_path / "a.onnx", with_plans=True)
    assert not list(tmp_path.iterdir())
    assert gives_plan(small("tome"), (3, 16, 16))


@pytest.mark.parametrize("format", ["torch-export", "openvino"])
def test_other_formats(format: str, tmp_path: Path) -> None:
    if format == "openvino":
        pytest.importorskip("openvino")
    model = small("tome")
    written = export(model, tmp_path / {"torch-export": "a.pt2", "openvino": "a.xml"}[format], format=format)
    images = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    found = agreement(written.load(), None, model, images, None)
    assert found.good
    assert found.same_class == 3


def test_a_patched_model_and_a_model_to_patch_give_the_same(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2, num_classes=4).eval()
    images = np.random.default_rng(0).random((2, 3, 48, 48), np.float32)
    before = export(model, tmp_path / "a.onnx", merger="tome", r=2).load()(images)[0]
    assert not [hook for module in model.modules() for hook in module._forward_hooks.values()]  # a copy was patched
    patch(model, "tome", r=2)
    assert np.array_equal(export(model, tmp_path / "b.onnx").load()(images)[0], before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense", "--out", "a.onnx"], "export: `model` must be a name of timm"),
        ([DIGITS, "--out", "a.onnx", "--format", "onxn"], "export: `format` must be one of"),
        ([DIGITS, "--out", "a.onnx", "--opset", "11"], "export: `opset` must be an integer >= 18, got 11"),
        ([DIGITS, "--out", "a.onnx", "--batch", "0"], "export: `batch` must be an integer >= 1, got 0"),
        ([DIGITS, "--out", "a.onnx", "--opset", "999"], "export: `opset` must be at most"),
        ([DIGITS, "--out", "a.onnx", "--threads", "0"], "export: `threads` must be an integer >= 1, got 0"),
        ([DIGITS, "--out", "a.onnx", "--seconds", "nan"], "export: `seconds` must be a number in [0, 3600], got nan"),
        ([DIGITS, "--out", "a.onnx", "--merger", "tome"], "export: `r` must be given with the merger tome"),
        (
            [DIGITS, "--out", "a.onnx", "--dtype", "bfloat16"],
            "`dtype` must be one of 'float32', 'float16', got",
        ),
        ([DIGITS, "--out", "no/such/folder/a.onnx"], "export: `out` must be a file that can be written"),
        ([DIGITS, "--out", "."], "export: `out` must be a file that can be written, got '.', which is a folder"),
        ([DIGITS, "--out", "/dev/null"], "export: `out` must be a file that can be written"),
        (["gone.pt", "--out", "a.onnx"], "export: `model` must be a file, got 'gone.pt'"),
        ([DIGITS, "--out", "a.onnx", "--weights", "gone"], "must be a file, got 'gone'"),
        (
            ["resnet18", "--out", "a.onnx", "--merger", "tome", "--r", "2"],
            "patch: `model` must hold exactly one network",
        ),
        (["resnet18", "--out", "a.bin", "--format", "stablehlo"], "must be a known name, got 'resnet18'"),
        ([DIGITS, "--out", "a.onnx", "--int8", "--dtype", "float16"], "export: `int8` must be with dtype='float32'"),
        ([DIGITS, "--out", "a.bin", "--format", "torch-export"], "export: `out` must end in '.pt2'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_format_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmerge.deploy import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    done = run(DIGITS, "--out", str(tmp_path / "a.xml"), "--format", "openvino")
    assert done.exit_code == 2
    assert done.output.strip() == (
        "export: format 'openvino' needs onnx, onnxscript, openvino: pip install onnx onnxscript openvino"
    )


def test_a_file_that_is_there_stays_if_the_export_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmerge.deploy.formats import onnx

    out = tmp_path / "a.onnx"
    out.write_text("old")
    monkeypatch.setattr(onnx, "write", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such operator\nmore")))
    with pytest.raises(ValueError, match=r"export: `format` must be one that can hold this model.*no such operator"):
        export(DIGITS, out)
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_a_file_that_decides_otherwise_is_found_out(tmp_path: Path) -> None:
    model = small("tome")
    pictures = photographs((3, 16, 16))
    right = export(model, tmp_path / "a.pt2", format="torch-export", with_plans=True).load()

    def wrong(images: Any) -> list[Any]:
        logits, plan = right(images)
        return [logits, np.roll(plan, 1, axis=1)]

    assert agreement(right, right, model, pictures, None).good
    assert not agreement(wrong, wrong, model, pictures, None).good
