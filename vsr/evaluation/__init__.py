"""Measuring pictures and clips against their originals, and laying them side by side for the eye."""
