"""Bridges to other graph libraries, one file a library; each is imported when it is used."""

from samplers.adapters.dgl import import_dgl

__all__ = ["import_dgl"]
