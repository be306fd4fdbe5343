"""The reasons why a source does not give a broker."""


class Unavailable(Exception):  # noqa: N818 - it is an answer to a question, not an error
    """A source does not have this broker here.

    Attributes:
        reason: Why not, as a clause without a full stop.
        remedy: What a person can do about it, as an imperative; empty when the reason says it all.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Failed(Unavailable):
    """A source has this broker, but it does not work: worth telling even when another source helps out."""


class Unanswered(Failed):
    """Nothing answers where a person said that the broker is: not for other sources to cover up."""
