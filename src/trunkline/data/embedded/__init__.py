"""The labelled messages that come with Trunkline, so that everything can be tried without a file. DATA_CARD.md says what they are."""

from importlib import resources
from pathlib import Path

from trunkline.choices import one_of

LANGUAGES = ("en", "zh")


def embedded(language: str) -> Path:
    """The CSV file (columns text, label) with the customer-service messages in "en" or "zh".

    Raises: OptionError for another language.

    >>> embedded("zh").name
    'zh.csv'
    """
    one_of("language", language, LANGUAGES)
    return Path(str(resources.files(__name__) / f"{language}.csv"))
