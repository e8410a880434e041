"""SNOMED CT codes of labels: from the config, from the label's name, or as an unspecified region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medhybrid.config import LabelCode
from medhybrid.errors import ConfigError

LESION_WORDS = ("lesion", "tumor", "tumour", "abnormality", "anomaly", "metastasis", "cancer", "nodule", "infarct")

ABNORMAL = "49755003, SCT, Morphologically Abnormal Structure"
LESION = "52988006, SCT, Lesion"
ANATOMY = "123037004, SCT, Anatomical Structure"
KNOWN = {
    "anterior": (ANATOMY, "279317001, SCT, Head of hippocampus"),
    "posterior": (ANATOMY, "279319003, SCT, Tail of hippocampus"),
}
REGION = ("309825002, SCT, Spatial and Relational Concept", "111176, DCM, Unspecified")


def parse_code(text: str) -> Any:
    """Parse a code: ``value, scheme, meaning``, or the keyword of a SNOMED CT concept (``Brain``).

    Raises
    ------
    ConfigError
        If the text is neither of them.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    parts = [p.strip() for p in text.split(",", 2)]
    if len(parts) == 3 and all(parts):
        return Code(*parts)
    keyword = "".join(word[:1].upper() + word[1:] for word in text.replace("_", " ").split())
    try:
        return getattr(codes.SCT, keyword)
    except AttributeError:
        raise ConfigError(
            f"code {text!r} is unknown",
            expected="a SNOMED CT keyword such as Brain, or value, scheme, meaning (12738006, SCT, Brain)",
        ) from None


def label_codes(name: str, given: Mapping[str, LabelCode]) -> tuple[Any, Any, Any | None]:
    """Return the category, type and anatomic region of a label. The region may be None."""
    code = given.get(name, LabelCode())
    words = name.casefold().replace("_", " ").replace("-", " ").split()
    if any(word.rstrip("s") in LESION_WORDS for word in words) or (code.anatomy and not code.type):
        category, kind = ABNORMAL, LESION
    else:
        category, kind = KNOWN.get(name.casefold(), REGION)
    anatomy = parse_code(code.anatomy) if code.anatomy else None
    return parse_code(code.category or category), parse_code(code.type or kind), anatomy
