"""Measurements behind single notebooks that are worth a test of their own; no part of the package."""
