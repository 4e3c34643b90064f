"""What each table and figure runs: a grid of units, and the records that they leave."""
