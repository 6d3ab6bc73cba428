"""Builds the package; everything that can be declared stands in pyproject.toml."""

from setuptools import setup

setup()
