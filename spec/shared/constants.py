"""Constants of the law that every backend computes with: each has this one place."""

LOG_FLOOR = 1e-12  # of every logarithm in the information bottleneck, in every precision
