"""Golden vectors: inputs and the results they must give, as files for people without Python (docs/vectors.md).

`python -m tokenmerge.conformance.vectors` writes them, `--check` says whether they are current.
"""

from pathlib import Path

DATA = Path(__file__).parent / "data"
