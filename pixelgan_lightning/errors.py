"""The one exception that means "what you asked for cannot be done", as opposed to a bug."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A value given by the user is unusable.

    The message is one line that names the argument, the value seen and the values allowed. The command line prints
    it without a traceback and exits with status 2.
    """
