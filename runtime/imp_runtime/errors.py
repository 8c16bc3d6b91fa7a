"""The error that is meant for people."""


class ImpError(Exception):
    """One line that names file, field and value, and says what to do. The CLI prints it and exits with code 2."""


class NotFiniteError(ImpError):
    """The model's logits hold NaN or infinity, so that no token can be chosen."""

    def __init__(self) -> None:
        super().__init__(
            "the model's logits are not all finite numbers, so that no token can be chosen; check the artifact with "
            "imp verify, and the weights for values that overflow"
        )


class NoRoomError(ImpError):
    """No slot, or too few blocks of the cache, are free now; they may be once a sequence has ended."""
