"""The paper's experiments and the command `keras-sam`. The library itself never imports this package."""
