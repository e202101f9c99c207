"""What hosts compare before they train together, whatever connects them."""

import hashlib

import numpy as np


def digest(value):
    """Eight bytes that tell values apart: arrays in a list by their contents, anything else by its `repr`."""
    arrays = value if isinstance(value, list) else [np.frombuffer(repr(value).encode(), "uint8")]
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).digest()[:8]


def shown(value):
    """What a message says of a value."""
    return "another" if isinstance(value, list) else repr(value)
