"""Measurements of speed, run by `python3 build.py bench`. Never asserted in a test: machines differ, ratios tell."""
