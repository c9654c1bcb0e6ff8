"""Answers a judge of the tests gives, and the messages it is asked with."""

from __future__ import annotations

import json
import re

from cxrbench.judges.formulas import ERRORS


def chexprompt_answer(significant=(0,) * 6, insignificant=(0,) * 6):
    sides = (("clinically_significant", significant), ("clinically_insignificant", insignificant))
    return json.dumps({side: dict(zip(ERRORS, counts, strict=True)) for side, counts in sides})


def green_answer(significant=(0,) * 6, insignificant=(0,) * 6, matched=0):
    def errors(counts):
        return "\n".join(f"({letter}) Kind: {count}." for letter, count in zip("abcdef", counts, strict=True))

    return (
        f"[Explanation]:\nShort.\n\n[Clinically Significant Errors]:\n{errors(significant)}\n\n"
        f"[Clinically Insignificant Errors]:\n{errors(insignificant)}\n\n[Matched Findings]:\n{matched}. things"
    )


def candidate_of(asked):
    """The candidate's text in a request of the built-in pair rubrics."""
    return re.search(r"Candidate report:\n(.*?)\n\n", asked["messages"][-1]["content"], re.DOTALL)[1]


def marks(text):
    """The number written in a report of the tests: `sample 17 ...`."""
    return int(re.search(r"sample (\d+)", text)[1])
