"""The demo: its pictures, texts and base model. A client of everything; recipes, tests and benchmarks import it."""
