"""The readers of iu-xray: what they accept, and that every damage is named with its place."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import iu_xray_tree as tree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.data import iu_reports
from cxrbench.data.iu_images import image_id_of, list_images, r2gen_folder
from cxrbench.data.iu_protocols import read_r2gen, read_rexrank
from cxrbench.data.iu_reports import parse_report, read_reports
from cxrbench.data.iu_tables import read_gold, read_kaggle_reports, read_projections
from cxrbench.errors import CxrbenchError

parts = st.lists(st.integers(1, 999999).map("{:04d}".format), min_size=2, max_size=4)
uids = st.integers(1, 3999)
EXTENSIONS = st.sampled_from([".png", ".dcm.png", ".dcm.jpg", ".jpeg", ".dcm", ".PNG", ""])


@given(uids, parts, EXTENSIONS)
def test_open_i_and_kaggle_names_mean_one_image(uid, numbers, extension):
    tail = f"IM-{'-'.join(numbers)}"
    openi = f"CXR1_1_{tail}" if uid == 1 else f"CXR{uid}_{tail}"
    assert image_id_of(openi + extension) == openi
    assert image_id_of(f"{uid}_{tail}{extension}") == openi
    assert image_id_of(tree.kaggle_name(openi)) == openi
    assert r2gen_folder(openi) + f"-{numbers[-1]}" == openi


@pytest.mark.parametrize(
    "name", ["0.png", "._CXR1_IM-1-1.png", "p10/s5.jpg", "CXR1.png", "IM-0001-3001.png", "CXR1_IM-1-1.txt"]
)
def test_other_names_mean_no_image(name):
    assert image_id_of(name) is None


def test_listing_passes_over_what_is_no_image(tmp_path):
    root = tree.images(tmp_path, "kaggle")
    (root / "0.png").write_bytes(b"")
    (root / "._1000_IM-0003-1001.dcm.png").write_bytes(b"")
    (root / "thumbs.db").write_bytes(b"")
    index = list_images([root, root / "deep"])
    assert set(index.files) == set(tree.VIEWS)
    assert (index.twice, index.naming) == ((), (6, 0))


def bad_xml(old, new):
    return tree.xml("CXR1").replace(old, new).encode()


@pytest.mark.parametrize(
    ("data", "what", "where"),
    [
        (b"\xef\xbb\xbf" + tree.xml("CXR1").encode(), "byte order mark", "1.xml, byte 0"),
        (bad_xml("Cough", "Co\0ugh"), "NUL byte", "byte"),
        (tree.xml("CXR1").replace("Cough", "Fi\xe8vre").encode("latin-1"), "not UTF-8: byte 0xe8", "byte"),
        (bad_xml("<eCitation>", '<!DOCTYPE e [<!ENTITY a "b">]>\n<eCitation>'), "declares", "1.xml, byte 39"),
        (bad_xml("<eCitation>", "<! entity a>\n<eCitation>"), "declares", "byte 39"),
        (bad_xml("</eCitation>", ""), "the XML is damaged", "1.xml"),
        (bad_xml('<uId id="CXR1"/>', ""), "no uId like CXR1000", "1.xml"),
        (bad_xml('<uId id="CXR1"/>', '<uId id="MPX1"/>'), "no uId like CXR1000", "1.xml"),
        (bad_xml('<uId id="CXR1"/>', '<uId id="CXR\u0661"/>'), "no uId like CXR1000", "1.xml"),
        (bad_xml('<uId id="CXR1"/>', '<uId id="CXR1&#10;"/>'), "no uId like CXR1000", "1.xml"),
        (bad_xml('<parentImage id="CXR1_1_IM-0001-4001">', "<parentImage>"), "parentImage 2 has no id like", "1.xml"),
        (bad_xml("CXR1_1_IM-0001-4001", "../../x"), "parentImage 2 has no id like", "1.xml"),
        (bad_xml("CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-3001"), "parentImage 2 has the id of an earlier", "1.xml"),
        (bad_xml('Label="FINDINGS"', 'Label="IMPRESSION"'), "section 'impression' twice", "1.xml"),
        (bad_xml('Label="FINDINGS"', 'Label="TECHNIQUE"'), "section 'technique'", "1.xml"),
    ],
)
def test_a_damaged_report_is_named_by_file_and_place(data, what, where):
    with pytest.raises(CxrbenchError) as caught:
        parse_report(data, "1.xml")
    assert what in caught.value.what
    assert where in caught.value.where
    assert "Lungs clear" not in str(caught.value)


def test_the_byte_is_the_right_one():
    data = bad_xml("Cough", "é\0")
    with pytest.raises(CxrbenchError) as caught:
        parse_report(data, "1.xml")
    assert caught.value.where == f"1.xml, byte {data.index(0):,}"


def test_markup_and_entities_of_xml_itself_are_text():
    report = parse_report(bad_xml("Lungs clear.", "A &lt; B &amp; <i>C</i> &#233;"), "1.xml")
    assert report.sections["findings"] == "A < B & C é"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text.strip()))
def test_any_text_comes_back_verbatim(text):
    from xml.sax.saxutils import escape

    if "\ufffe" in text or "\uffff" in text:
        return  # not characters of XML 1.0
    assert parse_report(bad_xml("Lungs clear.", escape(text)), "1.xml").sections["findings"] == text


def test_a_truncated_archive_is_named(tmp_path):
    path = tree.openi_archive(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CxrbenchError, match="cannot be read to its end") as caught:
        read_reports(path)
    assert caught.value.where == str(path)


def raw_tar(tmp_path):
    """The archive unpacked by one step, the position of its second header, and that of its end."""
    raw = bytearray(gzip.decompress(tree.openi_archive(tmp_path).read_bytes()))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = tar.getmembers()
    return raw, members[1].offset, members[-1].offset_data + -(-members[-1].size // 512) * 512


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", ["header", "cut between members", "cut behind the last", "half an end", "garbage"])
def test_a_damaged_archive_is_not_taken_for_a_shorter_one(tmp_path, damage, packed):
    raw, second, end = raw_tar(tmp_path)
    assert not any(raw[end:])
    if damage == "header":
        raw[second] ^= 1
    elif damage == "garbage":
        raw += b"more"
    else:
        del raw[{"cut between members": second, "cut behind the last": end, "half an end": end + 512}[damage] :]
    path = tmp_path / ("x.tgz" if packed else "x.tar")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(CxrbenchError, match="cannot be read to its end") as caught:
        read_reports(path)
    assert caught.value.where == str(path)


def test_two_blocks_of_zeros_are_the_end(tmp_path):
    raw, _, end = raw_tar(tmp_path)
    path = tmp_path / "x.tar"
    path.write_bytes(raw[: end + 1024])
    assert len(read_reports(path)) == len(tree.REPORTS)


@pytest.mark.parametrize("place", [-8, -1])
def test_a_wrong_checksum_or_length_of_the_packed_stream_is_damage(tmp_path, place):
    path = tree.openi_archive(tmp_path)
    packed = bytearray(path.read_bytes())
    packed[place] ^= 1
    path.write_bytes(packed)
    with pytest.raises(CxrbenchError, match="cannot be read to its end"):
        read_reports(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_a_link_is_refused(tmp_path, kind):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        data = tree.xml("CXR1").encode()
        plain = tarfile.TarInfo("ecgen-radiology/1.xml")
        plain.size = len(data)
        tar.addfile(plain, io.BytesIO(data))
        link = tarfile.TarInfo("ecgen-radiology/2.xml")
        link.type, link.linkname = kind, "ecgen-radiology/1.xml"
        tar.addfile(link)
    with pytest.raises(CxrbenchError, match="is a link, folder or device in place of a report") as caught:
        read_reports(path)
    assert "member 'ecgen-radiology/2.xml'" in caught.value.where


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_a_report_of_a_folder_that_cannot_be_read_is_named(tmp_path, kind):
    folder = tree.openi_folder(tmp_path)
    odd = folder / "9.xml"
    odd.mkdir() if kind == "folder" else odd.symlink_to(tmp_path / "nowhere.xml")
    with pytest.raises(CxrbenchError, match="the report cannot be read") as caught:
        read_reports(folder)
    assert caught.value.where == str(odd)


def test_nothing_of_an_archive_is_written_and_odd_members_are_harmless(tmp_path):
    members = {
        "../../escape.xml": tree.xml("CXR1").encode(),
        "/absolute/2.xml": tree.xml("CXR2").encode(),
        "ecgen-radiology/._3.xml": b"\0\5\x16\7",
        "ecgen-radiology/README": b"\0",
    }
    before = sorted(tmp_path.parent.rglob("*"))
    path = tree.tgz(tmp_path / "x.tgz", members)
    assert list(read_reports(path)) == ["CXR1", "CXR2"]
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, path])


def test_a_member_too_large_to_be_a_report_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(iu_reports, "MAX_BYTES", 100)
    with pytest.raises(CxrbenchError, match="which no Open-i report has") as caught:
        read_reports(tree.openi_archive(tmp_path))
    assert "member 'ecgen-radiology/1.xml'" in caught.value.where
    with pytest.raises(CxrbenchError, match="which no Open-i report has"):
        read_reports(tree.openi_folder(tmp_path))


def test_a_study_that_is_there_twice_is_refused(tmp_path):
    folder = tree.openi_folder(tmp_path)
    (folder / "9.xml").write_text(tree.xml("CXR1"))
    with pytest.raises(CxrbenchError, match="CXR1 is there twice"):
        read_reports(folder)
    with pytest.raises(CxrbenchError, match="no report in it"):
        read_reports(tree.tgz(tmp_path / "empty.tgz", {}))


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        ("findings,impression", "finding,impression", "no column 'findings' (did you mean 'finding'?)", "line 1"),
        ("Clear and wide", "Clear, and wide", "more cells", "line 2"),
        (",Clear and wide", "", "fewer cells", "line 2"),
        ("\n1,", "\nx,", "'x' is no study number", "line 2"),
        ('"two\nlines"', '"two\nlines', "damaged", "line 4"),
        ("\n1,", "\n2,", "CXR2 is there twice", "line 4"),
    ],
)
def test_a_damaged_table_is_named_by_line(tmp_path, old, new, what, line):
    header = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
    body = f'{header}\n1,normal,normal,x,,,Clear and wide,ok\n2,normal,normal,x,"two\nlines",,Clear,ok\n'
    path = tmp_path / "indiana_reports.csv"
    path.write_text(body, newline="")
    assert len(read_kaggle_reports(path).reports) == 2
    path.write_text(body.replace(old, new), newline="")
    with pytest.raises(CxrbenchError) as caught:
        read_kaggle_reports(path)
    assert what in caught.value.what
    assert line in caught.value.where


@pytest.mark.parametrize("error", ["#NAME?", " #VALUE! ", "#REF!", "#N/A"])
def test_every_spreadsheet_error_is_damage(tmp_path, error):
    reports, _ = tree.kaggle(tmp_path)
    reports.write_text(reports.read_text().replace("Lungs clear.", error))
    table = read_kaggle_reports(reports)
    assert table.damage == ((2, "CXR1", "findings"),)
    assert "findings" not in table.reports["CXR1"].sections


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("1,2_IM-0652-1001.dcm.png,Frontal", "no image of the study CXR1"),
        ("1,frontal.png,Frontal", "no image of the study CXR1"),
        ("1,1_IM-0001-4001.dcm.png,PA", "'PA' is no projection"),
        ("1,1_IM-0001-3001.dcm.png,Frontal", "there twice"),
    ],
)
def test_a_wrong_projection_is_refused(tmp_path, row, what):
    path = tmp_path / "indiana_projections.csv"
    path.write_text(f"uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Lateral\n{row}\n")
    with pytest.raises(CxrbenchError, match="line 3") as caught:
        read_projections(path)
    assert what in caught.value.what


def test_gold_labels_are_0_or_1(tmp_path):
    path = tree.gold(tmp_path)
    assert read_gold(path) == {"CXR1": {"Cardiomegaly": 0.0, "normal": 1.0}}
    path.write_text(path.read_text().replace("CXR1,0", "CXR1,2"))
    with pytest.raises(CxrbenchError, match="Cardiomegaly of CXR1 is neither 0 nor 1"):
        read_gold(path)


def write(path, body):
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return path


def changed(**change):
    records = tree.r2gen_records()
    records["test"][0].update(change)
    return records


@pytest.mark.parametrize(
    ("body", "what", "where"),
    [
        ("{", "not valid JSON", "line 1, column 2"),
        ("[]", "no JSON object", "annotation.json"),
        ({"train": [], "val": [], "    ": []}, "splits are called 'train', 'val', '    '", "annotation.json"),
        ('{"train": [], "train": []}', "the key 'train' stands twice in one object", "line 1, column 15"),
        (changed(id="3321"), "'3321' is no study id", "test[0]"),
        (changed(report=None), "'report' is missing or no text", "test[0]"),
        (changed(split="train"), "says split 'train' and stands under 'test'", "test[0]"),
        (changed(image_path=["a/0.png"]), "not of the form CXR1_1_IM-0001/0.png", "test[0]"),
        (changed(image_path=["../CXR1_1_IM-0001/0.png"]), "not of the form", "test[0]"),
        (changed(image_path=[]), "'image_path' is missing or no list", "test[0]"),
        (tree.r2gen_records() | {"val": tree.r2gen_records()["test"]}, "says split 'test'", "val[0]"),
        (tree.r2gen_records() | {"val": [{**tree.r2gen_records()["test"][0], "split": "val"}]}, "there twice", "json"),
    ],
)
def test_a_damaged_r2gen_file_is_named_by_record(tmp_path, body, what, where):
    path = write(tmp_path / "annotation.json", body)
    with pytest.raises(CxrbenchError) as caught:
        read_r2gen(path)
    assert what in caught.value.what
    assert where in caught.value.where
    assert "Lungs clear" not in str(caught.value)


@pytest.mark.parametrize(
    ("context", "sections"),
    [
        ("Indication: Cough, fever Comparison: None.", {"indication": "Cough, fever", "comparison": "None."}),
        (" Comparison: Two views.", {"comparison": "Two views."}),
        ("Indication: Cough Comparison: ", {"indication": "Cough"}),
        ("Indication:nanComparison: None.", {"comparison": "None."}),
        ("Age:60-70.Gender:F.Indication:Cough.Comparison:None.", {"indication": "Cough.", "comparison": "None."}),
        ("Indication: a\nb Comparison: c\nd", {"indication": "a\nb", "comparison": "c\nd"}),
    ],
)
def test_rexrank_context_is_taken_apart(tmp_path, context, sections):
    (record,) = read_rexrank((tree.rexrank(tmp_path, tree.rexrank_record() | {"context": context}),))
    assert {name: record.sections.get(name) for name in sections} == sections
    assert set(record.sections) == {"findings", "impression", *sections}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"context": "Cough"}, "has a context that begins with none of Age:"),
        ({"context": None}, "'context' is missing or no text"),
        ({"split": "valid"}, "split is 'valid'"),
        ({"key_image_path": "CXR1_1_IM-0001/2.png"}, "is not one of the study's images"),
        ({"section_findings": 3}, "'section_findings' is missing or no text"),
    ],
)
def test_a_damaged_rexrank_file_is_named_by_study(tmp_path, change, what):
    with pytest.raises(CxrbenchError) as caught:
        read_rexrank((tree.rexrank(tmp_path, tree.rexrank_record() | change),))
    assert what in caught.value.what
    assert "key 'CXR1_1_IM-0001'" in caught.value.where


def test_rexrank_files_may_not_repeat_a_study(tmp_path):
    path = tree.rexrank(tmp_path)
    with pytest.raises(CxrbenchError, match="there twice"):
        read_rexrank((path, path))
