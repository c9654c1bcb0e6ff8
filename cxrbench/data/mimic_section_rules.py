"""The tables behind MIMIC-CXR's official section extraction: header names, and the 54 studies treated by hand.

Data only. Source: MIT-LCP/mimic-cxr, txt/section_parser.py at commit 3190146 (13 July 2020), MIT licence, copyright
2019 MIT Laboratory for Computational Physiology (licences/MIT-LCP-mimic-cxr.txt). `sections.py` says how the tables are
used; a change here changes references, so `RULES_VERSION` goes up with it.
"""

from __future__ import annotations

from collections.abc import Mapping

RULES_VERSION = "official-2020-07"
"""Names the state of the rules; part of the fingerprint of the data and of every prepared index."""

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "preamble": ("preamble",),
    "impression": (
        "impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression",
        # Misspelt headers; `ndication` stands here in the official table too, although it looks like an indication.
        "ndication", "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion",
        "mpression", "impession",
    ),
    "findings": (
        "findings", "chest, two views", "reference findings",
        "finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs",
    ),
    "indication": (
        "indication", "reason for examination", "reason for exam", "clinical indication", "idication",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "comparison": (
        "comparison", "comparisons", "reference exam", "comparison exam", "comparison film",
        "comparision", "comparsion", "comparrison", "comparisions",
    ),
    "examination": ("examination", "exam", "type of examination"),
    "technique": ("technique",),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "notification": ("notification",),
    "addendum": ("addendum",),
    "wet read": ("wet read", "wetread"),
    "comment": ("comment",),
    "date": ("date",),
}  # fmt: skip

SECTION_NAMES: Mapping[str, str] = {header: name for name, headers in _SYNONYMS.items() for header in headers}
"""Header in lower case -> section name; looked up before anything else."""

NAME_PARTS: tuple[str, ...] = ("impression", "findings", "history", "comparison", "addendum")
"""A header that contains one of these is that section; the first match in this order wins."""

FINDINGS_PARTS: tuple[str, ...] = (
    "chest", "portable", "pa and lateral", "lateral and pa", "ap and lateral", "lateral and ap", "frontal and",
    "two views", "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window", "frontal upright",
    "frontal semi-upright", "ribs", "pa and lat",
)  # fmt: skip
"""A header that only names the examination, and contains one of these, is followed by findings."""

FORCED_SECTIONS: Mapping[str, str] = {
    "50913680": "recommendations", "59363654": "examination", "59279892": "technique", "59768032": "recommendations",
    "57936451": "indication", "50058765": "indication", "53356173": "examination", "53202765": "technique",
    "50808053": "technique", "51966317": "indication", "50743547": "examination", "56451190": "note",
    "59067458": "recommendations", "59215320": "examination", "55124749": "indication", "54365831": "indication",
    "59087630": "recommendations", "58157373": "recommendations", "56482935": "recommendations",
    "58375018": "recommendations", "54654948": "indication", "55157853": "examination", "51491012": "history",
}  # fmt: skip
"""Study -> the section under which the radiologist wrote the findings (23 studies)."""

FORCED_RANGES: Mapping[str, tuple[int, int]] = {
    "50525523": (201, 349), "57564132": (233, 554), "59982525": (313, 717), "53488209": (149, 475),
    "54875119": (234, 988), "50196495": (59, 399), "56579911": (59, 218), "52648681": (292, 631),
    "59889364": (172, 453), "53514462": (73, 377), "59505494": (59, 450), "53182247": (59, 412),
    "51410602": (47, 320), "56412866": (522, 822), "54986978": (59, 306), "59003148": (262, 505),
    "57150433": (61, 394), "56760320": (219, 457), "59562049": (158, 348), "52674888": (145, 296),
    "55258338": (192, 568), "59330497": (140, 655), "52119491": (179, 454),
    # Reports without any findings: an empty range.
    "58235663": (0, 0), "50798377": (0, 0), "54168089": (0, 0), "53071062": (0, 0),
    "56724958": (0, 0), "54231141": (0, 0), "53607029": (0, 0), "52035334": (0, 0),
}  # fmt: skip
"""Study -> character range [start, end) of the findings in the report's text (31 studies, 8 of them empty)."""
