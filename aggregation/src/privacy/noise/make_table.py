#!/usr/bin/env python3
"""Writes table.bin: the cumulative table of the folded discrete Gaussian N_Z(0, 256^2).

Entry k, for k = 0..3456, is round(2^127 * P(|X| <= k)), 16 bytes, little-endian, where
P(X = x) is proportional to exp(-x^2 / (2 * 256^2)). Everything is computed with 400 bits; the
normalising sum runs to 16384 (64 standard deviations), past which less than 2^-2900 is missing.

Needs mpmath. Usage: make_table.py [OUT]; prints the SHA-256 that the test in table.rs expects.
"""

import hashlib
import pathlib
import sys

from mpmath import floor, fsum, mp, mpf

SD = 256
LAST = 3456
SCALE_BITS = 127

mp.prec = 400
weights = [mp.exp(-mpf(x * x) / (2 * SD * SD)) for x in range(64 * SD + 1)]
total = weights[0] + 2 * fsum(weights[1:])

table = bytearray()
cumulative = weights[0]
for k in range(LAST + 1):
    if k > 0:
        cumulative += 2 * weights[k]
    entry = int(floor(mpf(2) ** SCALE_BITS * cumulative / total + mpf("0.5")))
    assert entry <= 1 << SCALE_BITS
    table += entry.to_bytes(16, "little")
# Every draw finds an entry: what lies beyond the table is below half of the last bit.
assert entry == 1 << SCALE_BITS

out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("table.bin")
out.write_bytes(table)
print(hashlib.sha256(table).hexdigest())
