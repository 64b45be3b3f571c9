"""The code that the chapters of *Under the Hood* explain: one module a topic."""
