"""How far this library is from the floor: `python -m benchmarks` (see docs/benchmarks.md)."""
