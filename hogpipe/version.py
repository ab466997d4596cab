"""The version, for the package's metadata and for records of who made what."""

__version__ = "0.1.0"
