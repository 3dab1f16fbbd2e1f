"""``python -m pixelgan_lightning`` is ``pixelgan``."""

from pixelgan_lightning.cli import main

if __name__ == "__main__":
    main()
