"""Training a network with a merger in it: `tokenmerge train --data ...` (docs/guides/training.md)."""
