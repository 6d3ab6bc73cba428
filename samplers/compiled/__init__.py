"""The CPU engine: loops over queries that numba compiles. The torch engine gives the same answers."""

from samplers.compiled.jit import run

__all__ = ["run"]
