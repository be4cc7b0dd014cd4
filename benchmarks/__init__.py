"""Side-by-side measurements against physical limits, and stress from outside the test suite."""
