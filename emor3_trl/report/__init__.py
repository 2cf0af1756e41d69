"""The report on evaluated models: a page to look through, a table and completions to read."""
