"""``python -m vsr`` is the command ``vsr``."""

from vsr.cli import main

if __name__ == "__main__":
    main()
