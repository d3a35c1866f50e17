"""The C++ program of docs/examples/deploy/cpp, built and run: it decides and answers as eager PyTorch does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmerge import ToMeMerging, ViTConfig, export, get_vit

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("matplotlib")
pytest.importorskip("openvino", reason="the headers and libraries of the program are in its wheel")

from tokenmerge.deploy.check import agreement, photographs  # noqa: E402  # which need what is asked for above

SOURCE = Path(__file__).parents[1] / "docs" / "examples" / "deploy" / "cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from openvino.utils import get_cmake_path

    if shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs cmake and a C++ compiler")
    build = tmp_path_factory.mktemp("build")
    for command in (["-S", SOURCE, "-B", build, f"-DOpenVINO_DIR={get_cmake_path()}"], ["--build", build]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "classify"


def ppm(path: Path, picture: Any) -> Path:
    """A picture `(height, width, 3)` of bytes as a file."""
    height, width, _ = picture.shape
    path.write_bytes(f"P6\n{width} {height}\n255\n".encode() + picture.tobytes())
    return path


def answer(text: str, num_tokens: int) -> tuple[Any, Any]:
    """Logits `(1,K)` and assignment `(1,N)` of what the program prints."""
    logits, assignment = [], np.full(num_tokens, -2)
    for line in text.splitlines():
        kind, number, *rest = line.replace(":", "").split()
        if kind == "logit":
            logits.append(float(rest[0]))
        elif kind == "token":
            assignment[[int(each) for each in rest]] = int(number)
    assert text.split("class ")[1].split()[0] == str(np.argmax(logits))
    return np.array([logits]), assignment[None]


def test_the_program_decides_and_answers_as_eager_pytorch(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=8, dim=16, depth=2, heads=2, num_classes=3, merging=ToMeMerging(r=4))
    model = get_vit(config, backend="torch").eval()
    file = export(model, tmp_path / "model.onnx", with_plans=True).path
    taken = np.round(255 * (photographs((3, 32, 32)) + 1) / 2).astype(np.uint8)

    def run(images: Any) -> list[Any]:
        (image,) = np.round(255 * (images + 1) / 2).astype(np.uint8)
        picture = ppm(tmp_path / "a.ppm", image.transpose(1, 2, 0))
        done = subprocess.run([program, file, picture], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(answer(done.stdout, 17))

    found = agreement(run, run, model, 2 * (taken / np.float32(255)) - 1, 1)
    assert found.good, found
    assert found.same_class == found.images


def test_a_mistake_is_one_sentence(program: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_text("P3\n1 1\n255\n0 0 0")
    for arguments in ([], ["gone.onnx", tmp_path / "a.ppm"]):
        done = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("classify: ")
        assert len(done.stderr.strip().splitlines()) == 1
