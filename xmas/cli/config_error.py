"""The error of a configuration that the user has to change."""


class ConfigError(ValueError):
    """A configuration that cannot be built; the message says what to change."""
