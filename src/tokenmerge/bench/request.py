"""What is asked of the bench. Everything that can be wrong with it is found here, before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenmerge.bench import networks, operators

NETWORKS = tuple(f"vit-{merger}" for merger in networks.MERGERS)
OPERATIONS = (*operators.OPERATIONS, *NETWORKS, "growth", "small")


@dataclass(frozen=True)
class Request:
    """What to time, where, and where the numbers go.

    Args:
        names: of `OPERATIONS`; backends: those installed if none are given.
        device, dtype: of the arrays.
        shapes: such as "B=8,N=197,D=64,C=768,r=16", for every name; if none are given, those of docs/performance.md;
            "small" has its own.
        network: of the whole networks.
        seconds: for each comparison.
        threads: of PyTorch; NumPy and JAX read the environment when they start.
        graph: capture PyTorch's calls on CUDA in CUDA graphs.
        compiled: also time ours through `torch.compile` against ours without.
        json, plot: files to write.

    Raises:
        ValueError: an unknown operation or network, or no time.

    >>> Request(seconds=0.0)
    Traceback (most recent call last):
    ...
    ValueError: bench: `seconds` must be greater than 0, got 0.0
    """

    names: tuple[str, ...] = ("tome",)
    backends: tuple[str, ...] = ()
    device: str | None = None
    dtype: str = "float32"
    shapes: tuple[str, ...] = ()
    network: str = "vit_base_patch16_224"
    seconds: float = 2.0
    threads: int | None = None
    graph: bool = False
    compiled: bool = False
    json: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in OPERATIONS:
                raise ValueError(f"bench: operation must be one of {', '.join(OPERATIONS)}, got {name!r}")
        if not self.seconds > 0:
            raise ValueError(f"bench: `seconds` must be greater than 0, got {self.seconds}")
        if self.network not in networks.NETWORKS:
            raise ValueError(f"bench: `network` must be one of {', '.join(networks.NETWORKS)}, got {self.network!r}")
