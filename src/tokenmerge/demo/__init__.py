"""The demo: four mergers on one photograph, every backend against the spec, and a picture of what they did."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from rich.console import Console

from tokenmerge.backends import available_backends, get_backend
from tokenmerge.demo import compare, features, picture, stages, table
from tokenmerge.pictures import panels, photo

FEWEST, MOST = 4, 64  # patches in a row


def run(
    image: str | PathLike[str] | None = None,
    out: str | PathLike[str] = "tokenmerge-demo.png",
    backends: Sequence[str] = (),
    patch_size: int = 16,
    size: int = 448,
) -> list[compare.Row]:
    """Merge the patches of a photograph, print the table, write the picture.

    Args:
        image: the photograph; None for one that comes with matplotlib.
        out: the picture to write.
        backends: names; none for every one that is installed, without the spec. The picture is drawn from the first.
        patch_size: width and height of a patch in pixels.
        size: width and height of the photograph in pixels, a multiple of `patch_size`.

    Returns:
        The rows of the table; `row.agrees` says whether a backend agrees with the spec.

    Raises:
        ValueError: an argument that cannot be used; nothing has been done then.
        ImportError: the framework of a backend is not installed.
    """
    out = Path(out)
    if patch_size < 1:
        raise ValueError(f"demo: `patch-size` must be an integer >= 1, got {patch_size}")
    if size % patch_size:
        raise ValueError(f"demo: `size` must be a multiple of the patch size {patch_size}, got {size}")
    side = size // patch_size
    if not FEWEST <= side <= MOST:
        least, most = FEWEST * patch_size, MOST * patch_size
        raise ValueError(f"demo: `size` must be {FEWEST} to {MOST} patches, {least} to {most} pixels, got {size}")
    panels.check_out(out, owner="demo")
    names = list(dict.fromkeys(backends)) or [
        name for name, info in available_backends().items() if info.available and name != "spec"
    ]
    for name in names:
        get_backend(name)
    shown = photo.load_photo(image, size)

    of_backend: dict[str, list[compare.Row]] = {name: [] for name in names}
    with Console(stderr=True).status("cutting the photograph into tokens") as status:
        work = [(stage, stage.cases()) for stage in stages.all_stages(features.tokens(shown, patch_size))]
        for name in names:  # one backend after the other: their threads would get in each other's way
            for stage, cases in work:
                status.update(f"{name}: {stage.title}")
                of_backend[name].append(compare.compare(stage, cases, name))
    rows = [row for of_stage in zip(*of_backend.values(), strict=True) for row in of_stage]
    console = Console()
    console.print(table.table(rows))
    picture.write_picture(out, shown, side, of_backend[names[0]])
    console.print(f"The picture is in {out}.", highlight=False, soft_wrap=True)
    return rows
