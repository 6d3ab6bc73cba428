"""A compiled loop that numbers int64 keys in the order of their first appearance."""

import numpy as np

from graphrec.compiling import compiled


@compiled
def insert_keys(keys, slots, values, size, result, grow):  # type: ignore[no-untyped-def]
    """Write the code of each key to ``result``; keys not seen before get the next codes if ``grow``, else -1.

    ``slots`` is an open-addressing table of codes, -1 where empty, its length a power of two; ``values``
    holds the key of each code. Returns the number of codes. The caller leaves room in both.
    """
    mask = np.uint64(len(slots) - 1)
    for row in range(len(keys)):
        key = keys[row]
        # the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)
        mixed = np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        position = (mixed ^ (mixed >> np.uint64(31))) & mask
        code = slots[position]
        while code >= 0 and values[code] != key:
            position = (position + np.uint64(1)) & mask
            code = slots[position]
        if code < 0 and grow:
            code = size
            slots[position] = code
            values[code] = key
            size += 1
        result[row] = code
    return size
