"""The version of the package, for what lies below its front."""

__version__ = "0.1.0"
