"""The phrase tables of phantom reports: every wording the generator knows, as data in the markup of phantom_markup.

Nothing here is random and nothing decides; `phantom_text` chooses. The tables are what docs/phantom.md counts.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITY: dict[str, tuple[tuple[str, ...], ...]] = {
    "effusion": (("small", "trace", "minimal"), ("moderate",), ("large", "massive")),
    "pneumothorax": (("small", "tiny"), ("moderate",), ("large", "extensive")),
    "consolidation": (("small", "minimal"), ("moderate",), ("large", "extensive")),
    "nodule": (("small", "tiny"), ("moderate",), ("large",)),
    "edema": (("mild", "minimal", "slight"), ("moderate",), ("severe", "marked")),
    "atelectasis": (("mild", "minimal", "slight"), ("moderate",), ("severe", "marked")),
    "cardiomegaly": (("mild", "slight"), ("moderate",), ("severe", "marked")),
}
"""Severity words by kind, for severity 1, 2 and 3."""

ADVERBS = (("mildly", "slightly"), ("moderately",), ("severely", "markedly"))


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase; its head has the id `e`. `countable` ones take an article, `plural` ones a plural verb."""

    markup: str
    countable: bool = True
    plural: bool = False


NOUNS: dict[str, tuple[Noun, ...]] = {
    "effusion": (
        Noun("{s}/s:O>e {d}/d:A>p pleural/p:A effusion/e:O@p"),
        Noun("{s}/s:O>e {d}/d:A sided effusion/e:O@d"),
        Noun("{s}/s:O>e pleural/p:A effusion/e:O@p on the {d}/d:A>p"),
        Noun("{s}/s:O>e layering/y:O>e {d}/d:A>p pleural/p:A effusion/e:O@p"),
        Noun("{s}/s:O>e amount of {d}/d:A>p pleural/p:A fluid/e:O@p"),
    ),
    "pneumothorax": (
        Noun("{s}/s:O>e {d}/d:A pneumothorax/e:O@d"),
        Noun("{s}/s:O>e {d}/d:A>a apical/a:A pneumothorax/e:O@a"),
        Noun("{s}/s:O>e {d}/d:A sided pneumothorax/e:O@d"),
        Noun("{s}/s:O>e pneumothorax/e:O@d on the {d}/d:A"),
    ),
    "consolidation": (
        Noun("{s}/s:O>e consolidation/e:O@l in the {loc}"),
        Noun("{s}/s:O>e {loc} consolidation/e:O@l"),
        Noun("{s}/s:O>e area of consolidation/e:O@l in the {loc}"),
        Noun("{s}/s:O>e airspace/r:A opacity/e:O@r@l in the {loc}"),
        Noun("{s}/s:O>e {loc} airspace/r:A opacity/e:O@r@l"),
        Noun("{s}/s:O>e opacity/e:O@l in the {loc}"),
    ),
    "edema": (
        Noun("{s}/s:O>e pulmonary/p:A edema/e:O@p", countable=False),
        Noun("{s}/s:O>e interstitial/p:A edema/e:O@p", countable=False),
        Noun("{s}/s:O>e interstitial/i:A>p pulmonary/p:A edema/e:O@p", countable=False),
        Noun("{s}/s:O>e bilateral/b:A>p perihilar/p:A edema/e:O@p", countable=False),
    ),
    "atelectasis": (
        Noun("{s}/s:O>e {d}/d:A>b basilar/b:A atelectasis/e:O@b", countable=False),
        Noun("{s}/s:O>e {d}/d:A>b basal/b:A atelectasis/e:O@b", countable=False),
        Noun("{s}/s:O>e linear/n:O>e atelectasis/e:O@b at the {d}/d:A>b lung_base/b:A", countable=False),
        Noun("{s}/s:O>e subsegmental/n:O>e atelectasis/e:O@b at the {d}/d:A>b base/b:A", countable=False),
        Noun("{s}/s:O>e {d}/d:A>b lower/w:A>b lobe/b:A atelectasis/e:O@b", countable=False),
    ),
    "nodule": (
        Noun("{s}/s:O>e {noun}/e:O@l in the {loc}"),
        Noun("{s}/s:O>e {loc} {noun}/e:O@l"),
        Noun("{s}/s:O>e rounded/n:O>e {noun}/e:O@l in the {loc}"),
        Noun("{s}/s:O>e pulmonary/g:A {noun}/e:O@g@l in the {loc}"),
    ),
    "fracture": (
        Noun("{d}/d:A>r rib/r:A fracture/e:O@r"),
        Noun("displaced/n:O>e {d}/d:A>r rib/r:A fracture/e:O@r"),
        Noun("{d}/d:A>r lateral/z:A>r rib/r:A fracture/e:O@r"),
        Noun("fracture/e:O@r of a {d}/d:A>r lateral/z:A>r rib/r:A"),
    ),
    "cardiomegaly": (
        Noun("{s}/s:O>e cardiomegaly/e:O", countable=False),
        Noun("{s}/s:O>e enlargement/e:O@h of the heart/h:A", countable=False),
        Noun("{s}/s:O>e enlargement/e:O@h of the cardiac/c:A>h silhouette/h:A", countable=False),
    ),
    "endotracheal-tube": (Noun("endotracheal_tube/e:O"), Noun("ET_tube/e:O")),
    "central-line": (
        Noun("{d}/d:A sided central_line/e:O@d"),
        Noun("{d}/d:A>v subclavian/v:A central_venous_catheter/e:O@v"),
        Noun("{d}/d:A central_venous_catheter/e:O@d"),
    ),
    "pacemaker": (
        Noun("{d}/d:A sided pacemaker/e:O@d"),
        Noun("{d}/d:A>c chest_wall/c:A pacemaker/e:O@c"),
        Noun("{d}/d:A pectoral/c:A pacemaker/e:O@d@c"),
    ),
    "feeding-tube": (Noun("feeding_tube/e:O"), Noun("enteric_tube/e:O"), Noun("nasogastric_tube/e:O")),
}

BOTH_ALIKE: dict[str, tuple[Noun, ...]] = {
    "effusion": (
        Noun("{s}/s:O>e bilateral/d:A>p pleural/p:A effusions/e:O@p", plural=True),
        Noun("{s}/s:O>e pleural/p:A effusions/e:O@p on both/d:A>q sides/q:A", plural=True),
    ),
    "atelectasis": (
        Noun("{s}/s:O>e bibasilar/b:A atelectasis/e:O@b", countable=False),
        Noun("{s}/s:O>e atelectasis/e:O@b at both/d:A>b lung_bases/b:A", countable=False),
    ),
}
"""A finding of the same severity on both sides."""

BOTH_UNLIKE: dict[str, tuple[Noun, ...]] = {
    "effusion": (
        Noun(
            "bilateral/d:A>p pleural/p:A effusions/e:O@p , {s}/s:O>e on the left/l:A and {t}/t:O>e on the right/r:A",
            plural=True,
        ),
    ),
    "atelectasis": (
        Noun("bibasilar/b:A atelectasis/e:O@b , {s}/s:O>e on the left/l:A and {t}/t:O>e on the right/r:A", False),
    ),
}
"""A finding on both sides with a severity each (s on the left, t on the right)."""

PLACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("right", "upper"): ("right/d:A>l upper/z:A>l lobe/l:A", "right/d:A>l upper/z:A>l lung/l:A"),
    ("right", "mid"): ("right/d:A>l middle/z:A>l lobe/l:A", "right/d:A>l mid/z:A>l lung/l:A"),
    ("right", "lower"): ("right/d:A>l lower/z:A>l lobe/l:A", "right/d:A>l lung_base/l:A"),
    ("left", "upper"): ("left/d:A>l upper/z:A>l lobe/l:A", "left/d:A>l upper/z:A>l lung/l:A"),
    ("left", "mid"): ("lingula/l:A", "left/d:A>l mid/z:A>l lung/l:A"),
    ("left", "lower"): ("left/d:A>l lower/z:A>l lobe/l:A", "left/d:A>l lung_base/l:A"),
}

# Frames take {np} (bare), {anp} (with its article), {tnp} (with `the`), {is}, {has}. E is the head of the noun phrase.
PLAIN = (
    "there {is} {anp} .",
    "{anp} {is} seen .",
    "{anp} {is} present .",
    "{anp} {is} noted .",
    "{anp} {is} identified .",
    "{np} .",
    "{np} .",
)
HEDGED = (
    "possible {np} .",
    "there may be {anp} .",
    "{anp} cannot be excluded .",
    "{anp} {is} suspected .",
    "{anp} {is} possible .",
    "probable {np} .",
    "questionable {np} .",
    "appearances suggest {anp} .",
    "{anp} {is} not excluded .",
)
CHANGED: dict[str, tuple[str, ...]] = {
    "new": (
        "new/u:P>e {np} .",
        "there {is} a new/u:P>e {np} .",
        "{anp} {is} new/u:P>e since the prior study .",
        "interval development/u:P>e of {anp} .",
        "{anp} has developed/u:P>e in the interval .",
    ),
    "unchanged": (
        "unchanged/u:P>e {np} .",
        "stable/u:P>e {np} .",
        "persistent/u:P>e {np} .",
        "{anp} {is} unchanged/u:P>e .",
        "{anp} {is} again/u:P>e seen .",
        "{anp} {is} stable/u:P>e compared with the prior study .",
        "no significant change/u:P>e in the {np} .",
        "{anp} {is} seen without interval change/u:P>e .",
    ),
    "worse": (
        "increased/u:P>e {np} .",
        "worsening/u:P>e {np} .",
        "{tnp} {has} worsened/u:P>e .",
        "{tnp} {has} increased/u:P>e since the prior study .",
        "interval worsening/u:P>e of the {np} .",
        "{np} , progressed/u:P>e from the prior study .",
    ),
    "improved": (
        "decreased/u:P>e {np} .",
        "improving/u:P>e {np} .",
        "{tnp} {has} improved/u:P>e .",
        "{tnp} {has} decreased/u:P>e since the prior study .",
        "interval improvement/u:P>e in the {np} .",
        "{np} , improved/u:P>e from the prior study .",
    ),
}
RESOLVED = (
    "the previously seen {np} {has} resolved/u:P>e .",
    "previously noted {np} {is} no longer seen .",
    "interval resolution/u:P>e of the {np} .",
)
REMOVED = (
    "the {np} has been removed/u:P>e .",
    "interval removal/u:P>e of the {np} .",
)

OWN_SENTENCES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "the heart/h:A is {adv}/s:O>e enlarged/e:O@h .",
        "heart/h:A size is {adv}/s:O>e enlarged/e:O@h .",
        "the cardiac/c:A>h silhouette/h:A is {adv}/s:O>e enlarged/e:O@h .",
        "{adv}/s:O>e enlarged/e:O@h heart/h:A .",
    ),
    "endotracheal-tube": (
        "the endotracheal_tube/e:O@c terminates above the carina/c:A .",
        "endotracheal_tube/e:O@c tip lies above the carina/c:A .",
        "an ET_tube/e:O is in standard_position/n:O>e .",
    ),
    "central-line": (
        "a {d}/d:A central_line/e:O@d@c ends in the SVC/c:A .",
        "{d}/d:A>v subclavian/v:A central_venous_catheter/e:O@v@c terminates in the superior_vena_cava/c:A .",
        "tip of the {d}/d:A sided central_venous_catheter/e:O@d@c projects over the SVC/c:A .",
    ),
    "pacemaker": (
        "{d}/d:A sided pacemaker/e:O@d with leads/f:O>e projecting over the heart/h:A .",
        "a {d}/d:A>c chest_wall/c:A pacemaker/e:O@c is in place .",
    ),
    "feeding-tube": (
        "the feeding_tube/e:O@c ends in the stomach/c:A .",
        "an enteric_tube/e:O@c courses below the diaphragm/c:A .",
        "nasogastric_tube/e:O@c tip is in the stomach/c:A .",
    ),
}
"""Sentences of a kind's own, for a finding with nothing said about change."""

PNEUMONIA = (
    ", which may represent pneumonia/n:U<e",
    ", concerning for pneumonia/n:U<e",
    ", suspicious for pneumonia/n:U<e",
    ", which could reflect pneumonia/n:U<e",
)
"""Added to a consolidation that is not small and not doubtful."""

ADJACENT = ("with {s}/s:O>e adjacent/n:O>e atelectasis/e:O", "with {s}/s:O>e associated/n:O>e atelectasis/e:O")
"""Added to an effusion when there is atelectasis on the same side."""

WITH_EDEMA = ("with {s}/s:O>e pulmonary/p:A edema/e:O@p", "and {s}/s:O>e interstitial/p:A edema/e:O@p")
WITHOUT_EDEMA = ("without pulmonary/p:A edema/e:N@p", "without edema/e:N", "without evidence of edema/e:N")

ABSENT: dict[str, tuple[str, ...]] = {
    "effusion": ("pleural/p:A effusion/e:N@p", "effusion/e:N"),
    "pneumothorax": ("pneumothorax/e:N",),
    "consolidation": ("focal/f:N>e consolidation/e:N", "consolidation/e:N", "airspace/r:A consolidation/e:N@r"),
    "pneumonia": ("pneumonia/e:N",),
    "edema": ("pulmonary/p:A edema/e:N@p", "edema/e:N"),
    "nodule": ("pulmonary/p:A nodule/e:N@p", "lung/p:A nodule/e:N@p"),
    "atelectasis": ("atelectasis/e:N",),
    "fracture": ("acute/c:N>e fracture/e:N", "rib/r:A fracture/e:N@r", "displaced/c:N>e rib/r:A fracture/e:N@r"),
    "thickening": ("pleural/p:A thickening/e:N@p",),
}
"""What is said not to be there; items are joined to lists."""

DENIALS = ("no {list} .", "there is no {list} .", "no evidence of {list} .", "no {list} is seen .")

NORMAL: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "heart": (
        ("the heart/h:A is normal/n:P@h in size .", ("cardiomegaly",)),
        ("heart/h:A size is normal/n:P@h .", ("cardiomegaly",)),
        ("normal/n:P@h heart/h:A size .", ("cardiomegaly",)),
        ("the cardiac/c:A>s silhouette/s:A is within normal/n:P@s limits .", ("cardiomegaly",)),
        ("the heart/h:A is not enlarged/e:N@h .", ("cardiomegaly",)),
        ("the cardiomediastinal/c:A>s silhouette/s:A is normal/n:P@s .", ("cardiomegaly", "mediastinum")),
        ("cardiomediastinal/c:A>s contours/s:A are unremarkable/n:P@s .", ("cardiomegaly", "mediastinum")),
    ),
    "mediastinum": (
        ("the mediastinal/c:A>s contours/s:A are normal/n:P@s .", ("mediastinum",)),
        ("mediastinal/c:A>s contours/s:A are unremarkable/n:P@s .", ("mediastinum",)),
    ),
    "lung": (
        ("the lungs/l:A are clear/n:P@l .", ("consolidation",)),
        ("lungs/l:A are clear/n:P@l .", ("consolidation",)),
        ("both/b:A>l lungs/l:A are well aerated/n:P@l and clear/m:P@l .", ("consolidation",)),
        ("clear/n:P@l lungs/l:A .", ("consolidation",)),
    ),
    "pleura": (
        ("the pleural/p:A>s spaces/s:A are clear/n:P@s .", ("effusion", "pneumothorax")),
        ("no pleural/p:A abnormality/e:N@p .", ("effusion", "pneumothorax")),
    ),
    "bone": (
        ("the bones/b:A are intact/n:P@b .", ("fracture",)),
        ("osseous/o:A>b structures/b:A are intact/n:P@b .", ("fracture",)),
        ("no acute/c:N>e osseous/o:A abnormality/e:N@o .", ("fracture",)),
    ),
}
"""Statements that a part is normal, with the kinds they deny."""

NOTHING = (
    "no acute/c:N>e cardiopulmonary/p:A process/e:N@p .",
    "no acute/c:N>e cardiopulmonary/p:A abnormality/e:N@p .",
    "no evidence of acute/c:N>e cardiopulmonary/p:A disease/e:N@p .",
    "no acute/c:N>e intrathoracic/p:A process/e:N@p .",
)
WHOLLY_NORMAL = (
    *NOTHING,
    "normal/n:P@c chest/c:A radiograph .",
    "unremarkable/n:P@c chest/c:A radiograph .",
)
DEVICES_ABOVE = (
    "support_devices/e:P as described above .",
    "lines_and_tubes/e:P in place .",
    "support_devices/e:P in standard_position/n:P>e .",
)

IMPRESSION_CHANGED: dict[str, tuple[str, ...]] = {
    "": ("{np} .",),
    "new": ("new/u:P>e {np} .", "interval development/u:P>e of {anp} ."),
    "unchanged": ("unchanged/u:P>e {np} .", "stable/u:P>e {np} .", "{np} , unchanged/u:P>e ."),
    "worse": ("worsening/u:P>e {np} .", "increased/u:P>e {np} .", "{np} , worse/u:P>e than before ."),
    "improved": ("improving/u:P>e {np} .", "decreased/u:P>e {np} .", "{np} , improved/u:P>e ."),
}
