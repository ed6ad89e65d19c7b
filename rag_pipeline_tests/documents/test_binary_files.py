"""What each binary format becomes, through the real worker process."""

import json
from collections.abc import Iterator

import pytest

from rag_pipeline.documents.parser_pool import ParserPool
from rag_pipeline.documents.parsing import Parsed, ParseFailure, ParseRequest
from rag_pipeline_tests.documents.sample_files import (
    PACKAGE,
    build_docx,
    build_epub,
    build_paragraph,
    build_pdf,
    build_zip,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    with ParserPool(workers=1) as opened:
        yield opened


def parse(pool: ParserPool, name: str, content: bytes) -> Parsed:
    [outcome] = pool.parse([ParseRequest("key", name, content)])
    assert isinstance(outcome, Parsed), outcome
    return outcome


def fail(pool: ParserPool, name: str, content: bytes) -> ParseFailure:
    [outcome] = pool.parse([ParseRequest("key", name, content)])
    assert isinstance(outcome, ParseFailure), outcome
    assert outcome.reason.startswith(f"{name}: ")
    return outcome


PAGE = """<!DOCTYPE html><html><head><title>Install &amp; run</title><script>var hidden=1</script></head><body>
<header role="banner">Banner words</header><nav><a href="/">Navigation words</a></nav>
<main><h1>Install<a class="headerlink" href="#i">¶</a></h1>
<p>Use <code>snake_case_name</code> if 5 &lt; 6.</p>
<pre><code class="language-python">def f(x):
    if x:
        return 1

    return 2
</code></pre>
<h2>Options</h2><table><thead><tr><th>Name</th><th>Default</th></tr></thead>
<tbody><tr><td>a|b</td><td>40</td></tr></tbody></table>
<ol><li>One<ul><li>Nested</li></ul></li><li>Two</li></ol>
<aside class="admonition"><p>Beware of the dog.</p></aside>
<img alt="a picture" src="data:image/png;base64,AAAA"></main><footer>Footer words</footer></body></html>"""


def test_a_page_keeps_its_content_as_markdown_and_loses_its_navigation(pool):
    parsed = parse(pool, "page.html", PAGE.encode())
    assert parsed.title == "Install & run"
    assert parsed.media_type == "text/html"
    for kept in (
        "# Install\n",
        "Use `snake_case_name` if 5 < 6.",
        "```python\ndef f(x):\n    if x:\n        return 1\n\n    return 2\n```",
        "## Options",
        "| a\\|b | 40 |",
        "1. One\n   - Nested\n2. Two",
        "Beware of the dog.",
        "a picture",
    ):
        assert kept in parsed.text
    for dropped in ("Banner", "Navigation", "Footer", "hidden", "¶", "base64"):
        assert dropped not in parsed.text


def test_a_page_without_a_main_part_keeps_its_body(pool):
    parsed = parse(pool, "page.htm", b"<p>First words</p><div>second words</div>")
    assert "First words" in parsed.text
    assert "second words" in parsed.text
    assert parsed.title == "page"


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("cp932", "Shift_JIS"),
        ("euc_jp", "EUC-JP"),
        ("utf-8", "Shift_JIS"),
        ("cp932", "utf-8"),
        ("cp932", "zip"),
    ],
)
def test_a_page_is_read_in_its_real_encoding_even_where_it_declares_another(pool, encoding, declared):
    words = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    page = f'<html><head><meta charset="{declared}"><title>猫</title></head><body><p>{words}</p></body></html>'
    parsed = parse(pool, "neko.html", page.encode(encoding))
    assert (parsed.title, parsed.text) == ("猫", words)


def test_a_docx_that_is_a_saved_web_page_is_read_as_one(pool):
    assert parse(pool, "report.docx", PAGE.encode()).media_type == "text/html"


def test_a_word_document_keeps_headings_tables_and_the_characters_of_its_text(pool):
    cell = "<w:tc>{}</w:tc>"
    row = "<w:tr>" + cell.format(build_paragraph("Name")) + cell.format(build_paragraph("a_b")) + "</w:tr>"
    parsed = parse(
        pool,
        "guide.docx",
        build_docx(
            build_paragraph("User guide", "Heading1")
            + build_paragraph("Set snake_case_name to 5 &lt; 6 ~ ok!")
            + build_paragraph("# no heading")
            + build_paragraph("Part", "Heading2")
            + f"<w:tbl>{row}{row}</w:tbl>"
        ),
    )
    assert parsed.title == "User guide"
    assert "# User guide\n" in parsed.text
    assert "\n## Part\n" in parsed.text
    assert "Set snake_case_name to 5 < 6 ~ ok!" in parsed.text
    assert "\n\\# no heading" in parsed.text
    assert "| Name | a_b |" in parsed.text


def test_a_book_is_read_in_reading_order_with_its_own_title(pool):
    parsed = parse(pool, "b.epub", build_epub(["<h1>One</h1><p>First.</p>", "<h1>Two</h1><p>Second.</p>"]))
    assert parsed.title == "A small book"
    assert parsed.text.index("# One") < parsed.text.index("First.") < parsed.text.index("# Two")


def test_a_workbook_becomes_one_table_per_sheet(pool):
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    cells = (
        '<row r="1"><c r="A1" t="inlineStr"><is><t>Year</t></is></c><c r="B1"><v>2026</v></c></row>'
        '<row r="2"><c r="A2" t="inlineStr"><is><t>Rows</t></is></c><c r="B2"><v>1.5</v></c></row>'
    )
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    content = build_zip(
        {
            "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
            f'<Override PartName="/xl/s.xml" ContentType="{kind}.worksheet+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" '
            f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            '<sheet name="Figures" sheetId="1" r:id="r"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship '
            f'Id="r" Type="{office}/worksheet" Target="s.xml"/></Relationships>',
            "xl/s.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
        }
    )
    parsed = parse(pool, "figures 2026.xlsx", content)
    assert parsed.title == "figures 2026"
    assert "## Figures" in parsed.text
    assert "| Year | 2026 |" in parsed.text
    assert "| Rows | 1.5 |" in parsed.text


def test_a_notebook_keeps_prose_and_code(pool):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Study\n", "Prose with a_b!"]},
        {"cell_type": "code", "metadata": {}, "source": ["x = 1\n"], "outputs": [], "execution_count": 1},
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    parsed = parse(pool, "study.ipynb", json.dumps(notebook).encode())
    assert parsed.title == "Study"
    assert "Prose with a_b!" in parsed.text
    assert "x = 1" in parsed.text


def test_rtf_is_read_in_its_code_page(pool):
    parsed = parse(pool, "a.doc", b"{\\rtf1\\ansi\\ansicpg1252 Stra\\'dfe und Gr\\'f6\\'dfe\\par}")
    assert "Straße und Größe" in parsed.text
    assert parsed.media_type == "application/rtf"


def test_pdf_pages_are_joined_by_a_blank_line(pool):
    parsed = parse(pool, "two pages.pdf", build_pdf([["First page", "second line"], ["Last page"]]))
    assert parsed.text == "First page\nsecond line\n\nLast page"
    assert parsed.title == "two pages"
    assert parsed.metadata == {"pages": 2}
    assert parsed.parser.startswith("pypdfium2@")


def test_pdf_bookmarks_become_headings_where_the_page_says_the_same(pool):
    pages = [["1. Setup", "Setup words follow."], ["Usage", "Words."]]
    parsed = parse(pool, "a.txt", build_pdf(pages, [("Setup", 0), ("Usage", 1), ("Nowhere", 1)]))
    assert parsed.text == "# 1. Setup\n\nSetup words follow.\n\n# Usage\n\nWords."


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("blank.pdf", build_pdf([[], []]), "no_text", "OCR"),
        ("cut.pdf", build_pdf([["x"]])[:200], "malformed", "save it again"),
        ("no.pdf", b"words", "malformed", "PDF"),
        ("cut.docx", build_docx(build_paragraph("x"))[:-30], "malformed", "zip"),
        ("no.docx", b"words", "malformed", ""),
        ("empty.docx", build_docx(""), "no_text", ""),
        ("nothing.docx", b"", "empty", ""),
        ("archive.zip", build_zip({"a.txt": "x"}), "unsupported", "ZIP"),
        ("old.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(3000), "unsupported", ".xls"),
        (
            "locked.docx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500) + "EncryptedPackage".encode("utf-16-le"),
            "encrypted",
            "password",
        ),
        ("scripts.html", b"<html><body><script>x()</script></body></html>", "no_text", ""),
        ("garbage.html", bytes(range(256)) * 20, "encoding", ""),
        ("blank.html", b"   \n", "empty", ""),
    ],
)
def test_a_file_without_readable_text_gets_a_reason(pool, name, content, code, said):
    failure = fail(pool, name, content)
    assert failure.code == code
    assert said in failure.reason


def test_entities_in_a_word_document_do_not_explode(pool):
    entities = '<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    )
    content = build_docx(build_paragraph("&j; real words"), f"<!DOCTYPE l [{entities}]>")
    [outcome] = pool.parse([ParseRequest("key", "laughs.docx", content)])
    assert isinstance(outcome, ParseFailure) or len(outcome.text) < 10_000
