"""The page of `recipes/app.py`: drop a picture, and read what one or two models say about it while they write."""
