"""The error that is meant for people."""


class ImpError(Exception):
    """One line that names file, field and value, and says what to do. The CLI prints it and exits with code 2."""
