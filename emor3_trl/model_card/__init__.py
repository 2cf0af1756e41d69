"""The model card of a run, in place of TRL's: read (facts.py), written (card.py), and when (trainer.py)."""
