"""Read and write clips: frames with PyAV, whole files with the ffmpeg program. Independent of the networks."""
