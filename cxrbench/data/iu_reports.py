"""Open-i's reports: one XML per study, in a folder or in NLMCXR_reports.tgz, read in memory.

Reads files, decides nothing about splits or images on disk. Nothing is extracted: archive member names are only ever
printed. A document with a DOCTYPE or an entity declaration is refused, so nothing can be expanded.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cxrbench.data.confined import leads_out, real_places
from cxrbench.data.iu_images import image_id_of
from cxrbench.data.text import decode
from cxrbench.errors import CxrbenchError
from cxrbench.reading import read_regular

SECTIONS = ("findings", "impression", "indication", "comparison")
MAX_BYTES = 4 * 1024 * 1024
"""No report is near this size (the largest is 20 kB); more is not one of them."""

_BLOCK = 1 << 20
_END = 2 * tarfile.BLOCKSIZE
"""Two blocks of zeros end a tar archive (POSIX ustar); without them it was cut off."""

_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_UID = re.compile(r"CXR[0-9]{1,9}")
_UNINDEXED = frozenset({"no indexing", "technical quality of image unsatisfactory"})


@dataclass(frozen=True, slots=True)
class Report:
    """One report. `uid` is Open-i's (`CXR1000`); `images` are its image ids in the order of the source."""

    uid: str
    sections: dict[str, str]
    mesh: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def abnormal(self) -> str | None:
        """`no` where the manual MeSH coding is exactly `normal`, `yes` where it names anything else, None if uncoded.

        `No Indexing` and `Technical Quality of Image Unsatisfactory` say nothing about the patient: uncoded.
        """
        coded = [term for term in self.mesh if term.strip().lower() not in _UNINDEXED]
        if not coded:
            return None
        return "no" if [term.strip().lower() for term in coded] == ["normal"] else "yes"


def uid_number(uid: str) -> int:
    """The number in a uid, by which studies are ordered: 1000 for `CXR1000`."""
    return int(uid.removeprefix("CXR"))


def is_archive(path: Path) -> bool:
    """Whether the file name is that of a tar archive."""
    return path.name.lower().endswith((".tgz", ".tar.gz", ".tar"))


def looks_like_report(data: bytes) -> bool:
    """Whether a file that begins with `data` is one of Open-i's reports."""
    return b"<eCitation" in data[:2000]


def first_member(archive: Path) -> bytes:
    """The beginning of the first XML file in an archive, or nothing where it has none."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(".xml"):
                    stream = tar.extractfile(member)
                    return stream.read(2000) if stream is not None else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return b""
    return b""


def read_reports(path: Path) -> dict[str, Report]:
    """Read every report of a folder or archive, by uid, in the order of the numbers.

    Raises:
        CxrbenchError: the archive is damaged or cut off, a report is a link, a file is no report, not UTF-8, declares
            entities, or a uid is twice.
    """
    found: dict[str, Report] = {}
    for where, data in _archive_files(path) if path.is_file() else _folder_files(path):
        report = parse_report(data, where)
        if report.uid in found:
            raise CxrbenchError(f"the study {report.uid} is there twice", where=where, fix="keep one of the files")
        found[report.uid] = report
    if not found:
        raise CxrbenchError("there is no report in it", where=str(path), fix="name the folder with <number>.xml files")
    return {uid: found[uid] for uid in sorted(found, key=uid_number)}


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    places = real_places((folder,))
    for path in sorted(folder.iterdir()):
        if not _is_report_name(path.name):
            continue
        try:
            _check_size(path.stat().st_size, str(path))
            raw = read_regular(path, MAX_BYTES)
        except OSError as error:
            raise CxrbenchError(f"the report cannot be read: {error.strerror}", where=str(path)) from error
        if leads_out(str(path), places):
            raise CxrbenchError(
                "the report is a link that leads out of its folder",
                where=str(path),
                fix="copy the file itself into the folder, or name the folder it lies in",
            )
        yield str(path), raw


def _archive_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if not _is_report_name(member.name):
                    continue
                where = f"{archive}, member {member.name!r}"
                stream = tar.extractfile(member) if member.isreg() else None
                if stream is None:
                    raise CxrbenchError(
                        "the member is a link, folder or device in place of a report, which no Open-i archive holds",
                        where=where,
                        fix="download the archive again, or name a folder with the unpacked reports",
                    )
                _check_size(member.size, where)
                yield where, stream.read()
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CxrbenchError(
            f"the archive cannot be read to its end ({error})", where=str(archive), fix="download the archive again"
        ) from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError unless zeros to the end of the file follow the last member.

    The standard reader takes a damaged header, or a file cut off between two members, for the end of the archive.
    Reading on to the end also makes the decompressor compare its checksum.
    """
    if tar.fileobj is None:
        raise tarfile.ReadError("it is closed")
    tar.fileobj.seek(tar.offset)
    size = 0
    while block := tar.fileobj.read(_BLOCK):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"there is no member and no end at byte {tar.offset:,}")
        size += len(block)
    if size < _END:
        raise tarfile.ReadError("the mark of its end is missing")


def _is_report_name(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(".xml") and not base.startswith(".")


def _check_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise CxrbenchError(
            f"the file has {size:,} bytes, which no Open-i report has (limit {MAX_BYTES:,})",
            where=where,
            fix="take the file out of the folder or archive",
        )


def parse_report(data: bytes, where: str) -> Report:
    """Parse one Open-i XML document.

    Raises:
        CxrbenchError: not UTF-8, a DOCTYPE or entity declaration, not well-formed, or no Open-i report.
    """
    text = decode(data, where)
    declaration = _DECLARATION.search(text)
    if declaration:
        raise CxrbenchError(
            "the XML declares a document type or entities, which no Open-i report does; it was not parsed",
            where=f"{where}, byte {len(text[: declaration.start()].encode()):,}",
            fix="get the file again from https://openi.nlm.nih.gov",
        )
    try:
        root = ElementTree.fromstring(text)  # noqa: S314  (declarations are refused above, so nothing can expand)
    except ElementTree.ParseError as error:
        raise CxrbenchError(f"the XML is damaged: {error}", where=where, fix="get the file again") from None
    identity = root.find("uId")
    uid = identity.get("id", "") if identity is not None else ""
    if not _UID.fullmatch(uid):
        raise CxrbenchError("the file is no Open-i chest report: it has no uId like CXR1000", where=where)
    return Report(
        uid=uid,
        sections=_sections(root.iter("AbstractText"), where),
        mesh=tuple(term.text.strip() for term in root.findall("MeSH/major") if term.text),
        images=_images(root.findall("parentImage"), where),
    )


def _images(parts: Iterable[ElementTree.Element], where: str) -> tuple[str, ...]:
    """Image ids in their order; an id becomes a file name, so only Open-i's form is taken."""
    images = tuple(part.get("id", "") for part in parts)
    for number, image in enumerate(images, 1):
        if image_id_of(image) != image:
            raise CxrbenchError(f"parentImage {number} has no id like CXR1000_IM-0003-1001", where=where)
        if image in images[: number - 1]:
            raise CxrbenchError(f"parentImage {number} has the id of an earlier one", where=where)
    return images


def _sections(parts: Iterable[ElementTree.Element], where: str) -> dict[str, str]:
    """Non-empty sections by their lower-case name, verbatim."""
    sections: dict[str, str] = {}
    for part in parts:
        name = part.get("Label", "").lower()
        text = "".join(part.itertext())
        if name not in SECTIONS:
            raise CxrbenchError(f"the report has a section {name!r}, which Open-i does not have", where=where)
        if text.strip():
            if name in sections:
                raise CxrbenchError(f"the report has the section {name!r} twice", where=where)
            sections[name] = text
    return sections
