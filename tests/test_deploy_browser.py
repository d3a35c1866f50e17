"""The page of docs/examples/deploy/browser in headless Chromium: it decides and answers as eager PyTorch does."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmerge import ToMeMerging, ViTConfig, export, get_vit

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("matplotlib")
image = pytest.importorskip("PIL.Image")

from tokenmerge.deploy.check import agreement, photographs  # noqa: E402  # which need what is asked for above

PAGE = Path(__file__).parents[1] / "docs" / "examples" / "deploy" / "browser"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium") or shutil.which("google-chrome")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of the page, served, and its address."""
    if NODE is None or CHROMIUM is None:
        pytest.skip("needs node and chromium")
    if not (PAGE / "node_modules").is_dir():
        pytest.skip(f"needs `npm install` in {PAGE}")
    for file in PAGE.iterdir():
        if file.suffix in (".html", ".mjs"):
            shutil.copy(file, tmp_path)
    (tmp_path / "node_modules").symlink_to(PAGE / "node_modules")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield tmp_path, f"http://127.0.0.1:{server.server_port}/index.html"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def look(folder: Path, url: str) -> dict[str, Any]:
    """What the page found; its picture lies in page.png."""
    command = [NODE, folder / "look.mjs", url, folder / "page.png", CHROMIUM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_decides_and_answers_as_eager_pytorch(site: tuple[Path, str]) -> None:
    folder, url = site
    torch.manual_seed(0)
    config = ViTConfig(image_size=64, patch_size=8, dim=16, depth=1, heads=2, num_classes=3, merging=ToMeMerging(r=24))
    model = get_vit(config, backend="torch").eval()
    export(model, folder / "model.onnx", with_plans=True)
    taken = np.round(255 * (photographs((3, 64, 64))[0].transpose(1, 2, 0) + 1) / 2).astype(np.uint8)
    image.fromarray(taken).save(folder / "photo.png")
    found = look(folder, url)
    assert "failure" not in found, found["failure"]
    assert found["left"] == 65 - 24

    def run(images: Any) -> list[Any]:
        return [np.array([found["logits"]]), np.array([found["assignment"]])]

    seen = (2 * (taken / np.float32(255)) - 1).transpose(2, 0, 1)[None]
    agrees = agreement(run, run, model, seen, 1)
    assert agrees.good, agrees

    drawn = np.asarray(image.open(BytesIO(b64decode(found["drawn"].split(",")[1]))).convert("RGB"))
    middles = drawn[28::56, 28::56].reshape(64, 3)  # of patches, on a canvas of 448 pixels
    patches = taken.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).reshape(64, 3)
    groups = np.array(found["assignment"][1:])  # but for the class token
    for group in set(groups):
        assert abs(middles[groups == group] - patches[groups == group].mean(axis=0)).max() <= 1  # a step of a colour


def test_a_file_that_is_no_model_is_said(site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "model.onnx").write_bytes(b"no model")
    assert "failure" in look(folder, url)
