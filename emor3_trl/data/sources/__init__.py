"""What people download, listed as candidates: one module per kind of source."""
