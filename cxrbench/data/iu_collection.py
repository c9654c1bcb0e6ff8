"""What the user's roots hold of IU X-ray, read when it is asked for, and the index that `data prepare` writes.

Joins the sources (reports, views, labels, image files); knows nothing of tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cxrbench.data.base import Roots
from cxrbench.data.iu_images import ImageIndex, list_images
from cxrbench.data.iu_protocols import Listed, read_r2gen, read_rexrank
from cxrbench.data.iu_reports import Report, read_reports
from cxrbench.data.iu_sources import Sources, find_sources
from cxrbench.data.iu_tables import KaggleReports, Projections, read_gold, read_kaggle_reports, read_projections
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import claim_folder, private_file

INDEX_NAME = "iu-xray.json"
INDEX_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Index:
    """What takes longest to read: the XML reports (None where none were given) and the listing of the images."""

    reports: Mapping[str, Report] | None
    images: ImageIndex


class Collection:
    """Everything under the roots, each source read at most once and only when it is asked for.

    Attributes are None where the user gave no such source; any of them may raise CxrbenchError for a damaged one.
    """

    def __init__(self, roots: Roots, prepared: Path | None = None) -> None:
        self._roots = roots
        self._prepared = prepared

    @cached_property
    def sources(self) -> Sources:
        """Paths by kind."""
        return find_sources(self._roots)

    @cached_property
    def _index(self) -> Index | None:
        return load_index(self._prepared, self.index_key) if self._prepared is not None else None

    @cached_property
    def index_key(self) -> str:
        """What an index must have been made from to be used: paths, sizes and times of the XML, the image roots."""
        xml = self.sources.get("openi-xml")
        parts = [f"format {INDEX_FORMAT}"]
        if xml is not None:
            files = [xml] if xml.is_file() else sorted(xml.glob("*.xml"))
            parts += [f"{path} {(stat := path.stat()).st_size} {stat.st_mtime_ns}" for path in files]
        parts += [f"images {path.resolve()}" for path in self._roots.get("images", ())]
        return _digest(parts)

    @cached_property
    def xml(self) -> Mapping[str, Report] | None:
        """Open-i's reports by uid."""
        path = self.sources.get("openi-xml")
        if path is None:
            return None
        return self._index.reports if self._index is not None else read_reports(path)

    @cached_property
    def images(self) -> ImageIndex:
        """The image files, listed once; empty where no image root was given."""
        return self._index.images if self._index is not None else list_images(self._roots.get("images", ()))

    @cached_property
    def kaggle(self) -> KaggleReports | None:
        """Kaggle's reports."""
        path = self.sources.get("kaggle-reports")
        return read_kaggle_reports(path) if path is not None else None

    @cached_property
    def projections(self) -> Projections | None:
        """Kaggle's views."""
        path = self.sources.get("kaggle-projections")
        return read_projections(path) if path is not None else None

    @cached_property
    def gold(self) -> Mapping[str, Mapping[str, float]]:
        """Gold labels by uid; empty where they were not given."""
        path = self.sources.get("gold")
        return read_gold(path) if path is not None else {}

    @cached_property
    def r2gen(self) -> list[Listed] | None:
        """R2Gen's studies."""
        path = self.sources.get("r2gen")
        return read_r2gen(path) if path is not None else None

    @cached_property
    def rexrank(self) -> list[Listed] | None:
        """ReXrank's studies, of all its files."""
        paths = self.sources.paths.get("rexrank", ())
        return read_rexrank(paths) if paths else None

    def report(self, uid: str) -> Report | None:
        """Open-i's report of a study, from the XML or else Kaggle's table."""
        for reports in (self.xml, self.kaggle.reports if self.kaggle is not None else None):
            if reports is not None and uid in reports:
                return reports[uid]
        return None

    def view(self, image_id: str | None) -> str:
        """FRONTAL or LATERAL by Kaggle's projections, empty where not known."""
        return self.projections.views.get(image_id, "") if self.projections is not None and image_id else ""


def _digest(parts: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load_index(folder: Path, key: str) -> Index | None:
    """The index in `folder`, or None where there is none or it was made from something else.

    Raises:
        CxrbenchError: the file is damaged.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
        if data["key"] != key:
            return None
        images = ImageIndex.from_json(data["images"])
        reports = data["reports"]
        read = None if reports is None else {uid: _report(uid, record) for uid, record in reports.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CxrbenchError(
            "the prepared index is damaged",
            where=str(path),
            fix="cxrbench data prepare iu-xray",
            code=Exit.INFRASTRUCTURE,
        ) from error
    return Index(read, images) if images.still_true() else None


def _report(uid: str, record: Mapping[str, object]) -> Report:
    sections, mesh, images = record["sections"], record["mesh"], record["images"]
    if not (isinstance(sections, dict) and isinstance(mesh, list) and isinstance(images, list)):
        raise TypeError(uid)
    return Report(uid, sections, tuple(mesh), tuple(images))


def save_index(folder: Path, key: str, index: Index) -> Path:
    """Write the index whole or not at all."""
    reports = None
    if index.reports is not None:
        reports = {
            uid: {"sections": report.sections, "mesh": report.mesh, "images": report.images}
            for uid, report in index.reports.items()
        }
    path = folder / INDEX_NAME
    part = path.with_name(path.name + ".part")
    try:
        claim_folder(folder)
        body = json.dumps({"key": key, "reports": reports, "images": index.images.to_json()}, ensure_ascii=False)
        part.unlink(missing_ok=True)
        with open(part, "w", encoding="utf-8", opener=private_file) as file:
            file.write(body)
        part.replace(path)
    except OSError as error:
        raise CxrbenchError(
            f"the index cannot be written: {error.strerror}",
            where=str(path),
            fix="make room, or name another folder",
            code=Exit.INFRASTRUCTURE,
        ) from error
    return path
