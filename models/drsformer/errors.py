"""What can go wrong, as exceptions with a one-line message: what, which value, what was expected."""


class DRSformerError(Exception):
    """Base of every error that a user can cause or must act upon."""


class ConfigError(DRSformerError, ValueError):
    """A value of a configuration or an argument is out of its range."""


class CheckpointError(DRSformerError):
    """A weight file is missing, damaged, foreign or does not fit the network."""


class ImageError(DRSformerError):
    """An image cannot be read, processed or written."""


class DeviceError(DRSformerError):
    """A device is absent, or out of memory even for the smallest tile."""
