"""A really trained network: a small ViT on the digits of scikit-learn, in every backend (docs/guides/choosing.md)."""
