import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import keyed_bits, keyed_integers, keyed_uniform
from samplers.random_numbers import stable_hash
from tests.samplers.strategies import chi_square_ok

int64s = st.integers(-(2**63), 2**63 - 1)


def reference_bits(keys):
    """SplitMix64's finaliser over the keys, in numpy's unsigned arithmetic."""
    with np.errstate(over="ignore"):
        state = np.uint64(0)
        for key in keys:
            x = (state ^ np.uint64(key % 2**64)) + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = x ^ (x >> np.uint64(31))
    return int(state.astype(np.int64))


@given(st.lists(int64s, min_size=1, max_size=4), st.integers(0, 4))
def test_bits_match_unsigned_arithmetic(keys, num_scalars):
    mixed = [k if i < num_scalars else torch.tensor([k]) for i, k in enumerate(keys)]
    assert keyed_bits(*mixed).reshape(-1).tolist() == [reference_bits(keys)]


def test_known_values():
    assert reference_bits([0]) % 2**64 == 0xE220A8397B1DCDAF  # the first output of SplitMix64 seeded with 0
    assert stable_hash("click") == 0x2C6F61736A28FE0C  # saved draws depend on it


def test_each_key_and_its_place_matter():
    keys = [
        (1, 2),
        (2, 1),
        (1, 2, 0),
        ("a", 2),
        ("b", 2),
        (("a", "b", "c"), 2),
        (("ab", "", "c"), 2),
        (None, 2),
    ]
    assert len({int(keyed_bits(*k)) for k in keys}) == len(keys)


def test_uniform_and_integers_are_uniform_over_consecutive_keys():
    slot = torch.arange(40_000)
    uniform = keyed_uniform(7, 3, slot)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert chi_square_ok(torch.histc(uniform.float(), 50, 0, 1), torch.ones(50))
    pair = (uniform[:-1] * 7).long() * 7 + (uniform[1:] * 7).long()  # neighbours are independent
    assert chi_square_ok(torch.bincount(pair, minlength=49), torch.ones(49))
    drawn = keyed_integers(13, "edge", slot)
    assert chi_square_ok(torch.bincount(drawn, minlength=13), torch.ones(13))


def test_integers_stay_below_their_own_bound():
    high = torch.tensor([0, 1, 2, 5])
    drawn = keyed_integers(high[:, None], 1, torch.arange(300))
    assert drawn.amax(1).tolist() == [0, 0, 1, 4]
    assert drawn.amin(1).tolist() == [0, 0, 0, 0]
