"""Writes blocks of every quantised GGUF type that this project reads, with the values that llama.cpp's own package gives them.

Run by hand, in an environment with the packages gguf and numpy:

    python tools/gguf-types/make-fixture.py test/fixtures/gguf-types/golden.json

Of each type there are random blocks, and edges: all zeros, all ones, the largest and the smallest scales, negative ones,
zeros of either sign, scales that are infinite or no numbers. `blocks` are base64, `values` are float32, compressed, in base64.
"""

import base64
import json
import sys
import zlib
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType, quants

# Of each type: bytes per block, and where the block's F16 fields (scale, then minimum) lie.
TYPES = {
    "Q4_0": (18, [0]),
    "Q4_1": (20, [0, 2]),
    "Q5_0": (22, [0]),
    "Q5_1": (24, [0, 2]),
    "Q8_0": (34, [0]),
    "Q2_K": (84, [80, 82]),
    "Q3_K": (110, [108]),
    "Q4_K": (144, [0, 2]),
    "Q5_K": (176, [0, 2]),
    "Q6_K": (210, [208]),
    "IQ4_NL": (18, [0]),
    "IQ4_XS": (136, [0]),
    "TQ2_0": (66, [64]),
}
HALVES = [
    (0x0000, 0x0000),
    (0x3C00, 0x3C00),  # 1
    (0x7BFF, 0x7BFF),  # the largest, 65504
    (0x0001, 0x8001),  # the smallest, 2^-24 and -2^-24
    (0xB99A, 0xB266),  # -0.7, -0.2
    (0x8000, 0x0000),  # -0 and 0: the signs of zeros
    (0x7C00, 0x7C00),  # infinite
    (0xFC00, 0x3C00),
    (0x7E01, 0x3C00),  # no number
    (0x3C00, 0xFD55),
]
# Exponents of MXFP4's scales: both subnormal ones, the next, 1, those that overflow float32, and E8M0's NaN.
EXPONENTS = [0, 1, 2, 128, 200, 252, 253, 254, 255]


def block(num_bytes, offsets, fill, *halves):
    """`fill` is a generator of bytes or a byte; `halves` are the bits of the F16 fields."""
    if isinstance(fill, int):
        data = np.full(num_bytes, fill, dtype=np.uint8)
    else:
        data = fill.integers(0, 256, num_bytes, dtype=np.uint8)
    for offset, half in zip(offsets, halves):
        data[offset : offset + 2] = [half & 255, half >> 8]
    return data


def blocks_of(num_bytes, offsets, rng):
    # Without the top bit of its exponent a F16 number is finite.
    finite = lambda: [int(half) & 0xBFFF for half in rng.integers(0, 65536, 2)]
    yield block(num_bytes, offsets, rng, *finite())
    yield block(num_bytes, offsets, rng, *finite())
    yield block(num_bytes, offsets, 0, *HALVES[0])
    yield block(num_bytes, offsets, 255, *HALVES[1])
    for halves in HALVES[2:]:
        yield block(num_bytes, offsets, rng, *halves)


def blocks_of_mxfp4(rng):
    for exponent in EXPONENTS:
        data = block(17, [], rng)
        data[0] = exponent
        yield data
    # Every quant, in both halves of a byte.
    yield np.array([127, *(16 * (15 - quant) + quant for quant in range(16))], dtype=np.uint8)


def entry(name, blocks):
    data = np.stack(list(blocks))
    with np.errstate(all="ignore"):
        values = quants.dequantize(data, GGMLQuantizationType[name]).astype("<f4")
    encode = lambda content: base64.b64encode(content).decode()
    return {"blocks": encode(data.tobytes()), "values": encode(zlib.compress(values.tobytes(), 9))}


types = {
    name: entry(name, blocks_of(*layout, np.random.default_rng(int(GGMLQuantizationType[name]))))
    for name, layout in TYPES.items()
}
types["MXFP4"] = entry("MXFP4", blocks_of_mxfp4(np.random.default_rng(int(GGMLQuantizationType.MXFP4))))
source = f"gguf.quants.dequantize of gguf {version('gguf')}, numpy {version('numpy')}"
with open(sys.argv[1], "w") as file:
    file.write(json.dumps({"source": source, "types": types}, indent=2) + "\n")
