"""Recognition of channel names in texts, as whole words: T1 matches `ax_T1w_3mm`, but not `T1ce`, `T12` or `T1 post`."""

from __future__ import annotations

import re
import unicodedata

NOT_LETTER = r"(?<![a-z0-9])"
CONTRAST = re.compile(
    NOT_LETTER + r"(?:post(?:contrast|gad\w*|gd|ce|c|km)?|ce|gd|gad|gado\w*|km|contrast|c\+)(?![a-z0-9])"
    r"|\+\s*(?:c|gd|km)\b|" + NOT_LETTER + r"c$",
    re.IGNORECASE,
)
"""Words for a contrast agent: an image with one is not the channel T1."""

NO_CONTRAST = re.compile(
    NOT_LETTER + r"(?:pre|non?|without|w/?o|ohne|native)[\s_.\-]*(?:contrast|ce|gd|gad\w*|km|c)?(?![a-z0-9])",
    re.IGNORECASE,
)
"""Words for an image without contrast agent."""

OTHERS: dict[str, re.Pattern[str]] = {
    "t2": re.compile(
        NOT_LETTER + r"(?:t2[\s_.\-]*)?(?:flair|star|swi|swan)(?![a-z])|tirm|dark[\s_.\-]*fluid", re.IGNORECASE
    ),
    "dwi": re.compile(NOT_LETTER + r"(?:adc|fa|md|exp|e?adc)(?![a-z0-9])", re.IGNORECASE),
}
"""For a sequence: words for other images that have its name in their description, such as T2 in T2-FLAIR."""

TARGET = re.compile(
    r"(?:(?<![a-z])(?:to|onto|in|on|reg|space)|[a-z]{2}to|(?<![a-z0-9])(?:t[12]|flair|pd|dwi|adc|swi)\w*?[\s_.\-]*2)[\s_.\-]*$"
    r"|(?:(?<![a-z])|[a-z]{2})2$",  # a "2" after other words and a separator is the number of a patient: sub-02_T1
    re.IGNORECASE,
)
"""Text before a channel's name that means "registered to this channel": the image itself is of another channel."""

DERIVED = re.compile(
    NOT_LETTER + r"(?:\w*mask|seg|segm|segmentation|labels?|roi|prob|probability|atlas|aseg)(?![a-z])", re.IGNORECASE
)
"""Words for results derived from a channel, which are not images: masks, segmentations, probabilities."""

OTHER_MASKS = re.compile(
    r"(?:(?:(brain|bet|skull|skullstrip\w*|(?:de)?fac(?:e|ing)|foreground|background|fov|valid|noise)|^(head|body))[_\-. ]*mask"
    r"|(?<![a-z])brain[_\-. ]*(?:parenchyma)?[_\-. ]*segmentation$"
    r"|mask[_\-. ]*(?:of[_\-. ]*)?(brain|bet|skull|(?:de)?face|foreground|background|fov|valid|noise|head|body)$)",
    re.IGNORECASE,
)
"""Names of masks from preprocessing tools, such as `brainmask`, which are not reference masks."""


def names_channel(text: str, channel: str) -> bool:
    """Return whether a text contains a channel's name as a word, regardless of case.

    Words are separated by other characters than letters and digits. A change between letters and digits separates words, too,
    and so does an upper-case letter after a lower-case one. T1, T2 and PD also match with a `w` (`T1w`), but not as `T1ce` or
    `T2*`. Separators within the name are ignored: `T1Gd` matches `t1_gd`. T1 does not match a text with a word for a contrast
    agent, T2 does not match FLAIR, and DWI does not match ADC. No channel matches a mask, or an image registered to it.
    """
    text, channel = (unicodedata.normalize("NFC", t) for t in (text, channel))
    if DERIVED.search(text) and not DERIVED.search(channel):
        return False
    if (other := OTHERS.get(re.sub(r"w$", "", channel.casefold()))) and other.search(text):
        return False
    if re.fullmatch(r"t1w?", channel, re.IGNORECASE) and CONTRAST.search(NO_CONTRAST.sub("", text)):
        return False
    return any(
        _begins_word(text, found.start()) and _ends_word(text, found.end()) and not TARGET.search(text[: found.start()])
        for found in re.finditer(_pattern(channel), text, re.IGNORECASE)
    )


def without_channel(text: str, channel: str) -> str:
    """Replace a channel's name in a text by a space."""
    text, channel = (unicodedata.normalize("NFC", t) for t in (text, channel))

    def replaced(found: re.Match[str]) -> str:
        return " " if _begins_word(text, found.start()) and _ends_word(text, found.end()) else found[0]

    return re.sub(_pattern(channel), replaced, text, flags=re.IGNORECASE)


def _pattern(channel: str) -> str:
    """Return the regular expression of a channel's name, with optional separators between letters and digits."""
    words: list[str] = re.findall(r"(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+)\d*|\d+|[^A-Za-z\d\s_.\-]", channel)
    if not words:
        return re.escape(channel)
    pattern = r"[\s_.\-]*".join(re.escape(w) for w in words)
    may_be_weighted = channel[-1].isdigit() or channel.casefold() == "pd"
    return pattern + r"(?:w|pre)?" if may_be_weighted else pattern


def _begins_word(text: str, begin: int) -> bool:
    if begin == 0:
        return True
    if not text[begin - 1].isalnum():
        return not unicodedata.combining(text[begin - 1])
    before, first = text[begin - 1], text[begin]
    return before.isdigit() != first.isdigit() or (before.islower() and first.isupper())


def _ends_word(text: str, end: int) -> bool:
    if end == len(text):
        return True
    last, after = text[end - 1], text[end]
    if after == "*" or unicodedata.combining(after):
        return False
    if not after.isalnum():
        return True
    return last.isalpha() and (after.isdigit() or (last.islower() and after.isupper()))


def is_other_mask(name: str, labels: tuple[str, ...]) -> bool:
    """Return whether a file name is that of a mask without a label of the study, such as `brainmask`."""
    plain = _letters_of(name)
    return OTHER_MASKS.search(name) is not None and not any(_letters_of(n) in plain for n in labels)


def _letters_of(name: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFC", name.casefold()))
