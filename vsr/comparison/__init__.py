"""Candidates side by side for the eye: strips, a video, or a page with a slider."""
