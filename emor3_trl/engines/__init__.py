"""The policy, used: it writes completions, chooses among answers, and scores tokens."""
