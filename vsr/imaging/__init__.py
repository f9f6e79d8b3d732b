"""Colour conversion, resizing, metrics, motion, warping and picture files. Imports only vsr.errors and vsr.files."""
