"""The kernels proper. These modules need Triton; nothing imports them before the first launch.

Numbers of tokens change from layer to layer, so they are not specialized: a program is compiled once for all of them.
Offsets into tensors are 64 bit wide.
"""
