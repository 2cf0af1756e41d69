"""A run that is stopped, or not finite: what every trainer needs beside its method."""
