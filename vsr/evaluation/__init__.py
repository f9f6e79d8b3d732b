"""Measures of pictures and clips against their originals, and tables of them."""
