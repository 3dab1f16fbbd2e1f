"""The exceptions that mean something to a user, as opposed to a bug."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A value given by the user is unusable.

    The message is one line that names the argument, the value seen and the values allowed. The command line prints
    it without a traceback and exits with status 2.
    """


class RunError(RuntimeError):
    """A run cannot go on although what was asked for is fine: the disk is full, a loss is not finite.

    The message is one line. The command line prints it without a traceback and exits with status 1.
    """


class NonFiniteError(RunError, FloatingPointError):
    """A loss or a gradient is infinite or NaN; the message names the phase, the step and the batch."""
