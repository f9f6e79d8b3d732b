"""Files <-> frames, by PyAV in process and by the ffmpeg program for whole files. Knows no network."""
