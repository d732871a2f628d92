"""Synthetic tissue with planted truth, written in the layout of each instrument; for the demo, tests and benchmarks."""
