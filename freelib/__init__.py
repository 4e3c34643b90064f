"""freelib: data-free meta-learning, reproduced notebook by notebook."""

__version__ = "0.1.0"
