"""cxrbench measures chest-X-ray report generators: how good their reports are and how fast they write them."""

__version__ = "0.1.0"
