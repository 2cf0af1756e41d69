"""A group is computed once: its picture, its prompt, its forward."""
