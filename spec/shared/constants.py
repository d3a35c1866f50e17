"""Constants of the law that every backend computes with: each has this one place."""

LOG_FLOOR = 1e-12  # of every logarithm in the information bottleneck, in every precision
GUMBEL_FLOOR = 1e-6  # of ATS's sum of scores and of its probabilities, before their logarithm
