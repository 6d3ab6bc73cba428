"""Keyed draws and the few functions of numbers in them, bit for bit those of ``samplers.random_numbers``."""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from samplers.compiled.jit import compiled
from samplers.random_numbers import EXP_COEFFICIENTS, LOG_COEFFICIENTS, SQRT_HALF

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


@compiled
def mix(state, key):
    """Chain one more key to a state; both are words of 64 bits."""
    x = (np.uint64(state) ^ np.uint64(key)) + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * _FIRST_FACTOR
    x = (x ^ (x >> np.uint64(27))) * _SECOND_FACTOR
    return x ^ (x >> np.uint64(31))


@compiled
def uniform(state):
    """Turn a state into a number in [0, 1): a multiple of 2^-53."""
    return np.float64(np.int64(state >> np.uint64(11))) * 2.0**-53


@compiled
def query_state(state, index, node, time, by_place):
    """State of one query: of its node and time, or of its place in the batch."""
    if by_place:
        return mix(state, np.int64(index))
    return mix(mix(state, np.int64(node)), np.int64(time))


@compiled
def log2(x):
    """Logarithm of a positive, normal number: the steps of ``samplers.random_numbers.log2``, one for one."""
    mantissa, exponent = math.frexp(x)
    if mantissa < SQRT_HALF:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    total = 0.0
    for coefficient in LOG_COEFFICIENTS:
        total = total * z + coefficient
    return total * s + exponent


@compiled
def fixed_point_exp2(x):
    """Whole part of 2^31 / 2^x for x >= 0: the steps of ``samplers.random_numbers.fixed_point_exp2``."""
    if x >= 32.0:
        return np.int64(0)
    whole = math.floor(x)
    total = 0.0
    for coefficient in EXP_COEFFICIENTS:
        total = total * (x - whole) + coefficient
    return np.int64(total * np.float64(np.int64(1) << (np.int64(31) - np.int64(whole))))


@intrinsic
def lowest_bit(typing_context, word):
    """Place of the lowest bit that is set in a word of 64 bits, which is not 0."""

    def generate(context, builder, signature, arguments):
        place = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return context.cast(builder, place, types.uint64, types.int64)

    return types.int64(types.uint64), generate


@intrinsic
def num_bits(typing_context, word):
    """How many bits a word of 64 bits, which is not 0, needs."""

    def generate(context, builder, signature, arguments):
        leading = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(ir.IntType(64), 64), leading)

    return types.int64(types.uint64), generate
