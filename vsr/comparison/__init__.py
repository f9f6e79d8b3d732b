"""Show candidates side by side: as strips, a video, or a page with a slider."""
