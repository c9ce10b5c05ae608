"""Errors with a one-line message: what, which value, what was expected. Does not import torch."""


class DRSformerError(Exception):
    """Base class of all errors that a user can cause or fix."""


class ConfigError(DRSformerError, ValueError):
    """A value of a configuration or an argument is out of its range."""


class CheckpointError(DRSformerError):
    """A checkpoint is missing, damaged, that of another network, or does not match its configuration."""


class ImageError(DRSformerError):
    """An image cannot be read, processed or written."""


class UnsupportedError(ImageError):
    """A file is not an image, or is one of a kind that is not supported."""


class DeviceError(DRSformerError):
    """A device does not exist, or is out of memory even for the smallest tile."""
