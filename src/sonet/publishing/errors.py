"""What is wrong with a publication, or with what was to be published."""


class PublicationError(ValueError):
    """A publication that cannot be written or read. The message says what was got, expected, why and what to do."""
