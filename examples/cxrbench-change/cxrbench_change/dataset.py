"""A data set in two dozen lines: a folder of NAME.png and NAME.txt, every pair a study of its own patient."""

import hashlib

from cxrbench.data.base import Check, Root
from cxrbench.errors import CxrbenchError
from cxrbench.types import Image, Study


class Pairs:
    """`cxrbench data add pairs --reports FOLDER`."""

    name, access, may_be_open, patient_ids = "pairs", "credentialed", True, False
    citation, licence, options = "", "", {}
    roots = {"reports": Root("a folder of NAME.png and NAME.txt", required=True)}

    def recognise(self, path):
        return "reports" if any(path.glob("*.txt")) else None

    def _texts(self, roots):
        if not roots.get("reports"):
            raise CxrbenchError("the folder of pairs is not known", fix="cxrbench data add pairs --reports FOLDER")
        return sorted(file for root in roots["reports"] for file in root.glob("*.txt"))

    def studies(self, roots, part, prepared=None):
        for text in self._texts(roots):
            images = (Image(text.stem, str(text.with_suffix(".png")), "PA"),)
            yield Study(text.stem, None, part.split, images, {"findings": text.read_text(encoding="utf-8")})

    def check(self, roots):
        return [Check("pairs", "ok", f"{len(self._texts(roots))} texts")]

    def prepare(self, roots, out, progress):
        return [Check("pairs", "note", "there is nothing to prepare")]

    def fingerprint(self, roots, part):
        return hashlib.sha256(b"".join(file.read_bytes() for file in self._texts(roots))).hexdigest()[:16]
