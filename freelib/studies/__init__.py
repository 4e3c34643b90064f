"""Measurements behind single figures that are worth a test of their own."""
