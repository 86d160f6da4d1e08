"""Figures beside what a user would run instead: in one run, as ratios, with the machine's load."""
