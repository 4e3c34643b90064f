"""A run: from a profile to units, from a unit to its record."""
