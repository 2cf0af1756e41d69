"""The grid of the paper's tables: which systems, run how, and what came of them."""
