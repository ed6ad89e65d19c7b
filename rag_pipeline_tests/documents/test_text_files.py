"""Decoding, front matter and titles, as tables of cases."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.documents.text_files import (
    decode_text,
    find_markdown_title,
    make_storable,
    split_front_matter,
    to_plain_json,
)

JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\r\n①髙﨑\r\n"
KOREAN = "모든 국민은 인간으로서의 존엄과 가치를 가지며, 행복을 추구할 권리를 가진다.\n똠방각하\n"
CHINESE = "中华人民共和国国务院办公厅关于印发通知，各省、自治区、直辖市人民政府，请认真贯彻执行。\n"
GERMAN = "Größe und Übermut tun selten gut; die Straße ist naß und die Bäume blühen schön.\n"
FRENCH = "Voilà une phrase très ordinaire : l'été déjà passé laisse les élèves fatigués à côté.\n"
SMART_QUOTES = "It’s a “quoted” word – and 5 € more, naïve café.\n"
RUSSIAN = "Быстрая коричневая лиса прыгает через ленивую собаку и читает документацию.\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (JAPANESE, "cp932"),
        ("日本国民は、正当に選挙された国会における代表者を通じて行動する。", "euc_jp"),
        ("日本語の電子メールは、この符号で送られていた。", "iso2022_jp"),
        (KOREAN, "cp949"),
        (KOREAN.split("\n")[0], "euc_kr"),
        (CHINESE, "gb18030"),
        ("本文件說明如何安裝與設定伺服器，並提供常見問題的解答。請先閱讀使用手冊。", "big5"),
        (GERMAN, "latin-1"),
        (FRENCH, "latin-1"),
        (SMART_QUOTES, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "utf-8"),
        (JAPANESE, "utf-8-sig"),
        (JAPANESE, "utf-16"),
        (JAPANESE, "utf-32"),
        (SMART_QUOTES, "utf-16-le"),
        (SMART_QUOTES, "utf-16-be"),
    ],
)
def test_realistic_text_comes_back_unchanged_from_its_encoding(text, encoding):
    decoded = decode_text(text.encode(encoding))
    assert decoded is not None
    assert decoded[0] == text


def test_the_encoding_is_found_behind_a_megabyte_of_ascii():
    text = "plain words only\n" * 70_000 + JAPANESE
    assert decode_text(text.encode("cp932")) == (text, "cp932")


def test_one_broken_byte_does_not_turn_a_utf8_file_into_mojibake():
    content = (GERMAN * 20).encode() + b"\xff" + GERMAN.encode()
    assert decode_text(content) == (GERMAN * 20 + "\ufffd" + GERMAN, "utf-8")


def test_nul_bytes_are_dropped_and_lone_surrogates_replaced():
    text, _ = decode_text(b"a\0b \xed\xa0\x80 c " + b"word " * 20)
    assert text == "ab \ufffd c " + "word " * 20


def test_a_surrogate_pair_becomes_its_character():
    assert make_storable("\ud83d\ude00 \ud83d") == "😀 \ufffd"


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 40,
        b"\x89PNG\r\n\x1a\n" + bytes(range(0, 256, 3)) * 30,
        b"\x7fELF\x02\x01\x01" + b"\0" * 500 + bytes(range(128, 256)) * 4,
        b"\0" * 1000,
    ],
)
def test_binary_garbage_is_no_text(content):
    assert decode_text(content) is None


@pytest.mark.parametrize("declared", ["zip", "hex", "rot13", "nothing-real", "\0", "idna"])
def test_a_declared_encoding_that_is_none_is_ignored(declared):
    decoded = decode_text((GERMAN * 3).encode("latin-1"), declared)
    assert decoded is not None
    assert decoded[0] == GERMAN * 3


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_storable_text_or_to_none(content):
    decoded = decode_text(content)
    if decoded is not None:
        assert "\0" not in decoded[0]
        decoded[0].encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=400))
def test_utf8_text_is_kept_verbatim(text):
    assert decode_text(text.encode()) == (text.removeprefix("\ufeff"), "utf-8")


def test_front_matter_becomes_plain_json_and_leaves_the_text():
    text = (
        "---\ntitle: A guide\ndate: 2024-05-06\nat: 2024-05-06 07:08:09\ntags: [a, b]\n"
        "2: two\non: .nan\nbig: 99999999999999999999999\nnested: {deep: [1, null]}\n---\n\n# Heading\n\n---\n"
    )
    rest, metadata = split_front_matter(text)
    assert rest == "\n# Heading\n\n---\n"
    assert metadata == {
        "title": "A guide",
        "date": "2024-05-06",
        "at": "2024-05-06T07:08:09",
        "tags": ["a", "b"],
        "2": "two",
        "true": "nan",
        "big": "99999999999999999999999",
        "nested": {"deep": [1, None]},
    }
    json.dumps(metadata, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        "---\njust a paragraph\n---\nrest",
        "--- \n\n---",
        "---\nno end: here\n",
        "text\n---\na: b\n---\n",
        "---",
    ],
)
def test_a_rule_is_not_front_matter(text):
    rest, metadata = split_front_matter(text)
    assert metadata == {}
    assert rest in (text, "")


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{','.join(['*' + chr(97 + n)] * 9)}]}}\n" for n in range(9)
)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("block", "said"),
    [
        (LAUGHS, "aliases"),
        (MERGES, "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("a: " + "[" * 60_000 + "\n", "deeper"),
        ("a:\n  " + "- " * 30_000 + "x\n", "deeper"),
        ("? " * 30_000 + "\n", "deeper"),
        ("a: " + "{b: " * 300 + "1" + "}" * 300 + "\n", "deeper"),
        ("a: !!python/object/apply:os.system ['false']\n", "python"),
        ("a: [unclosed\n", ""),
        ("a: 2024-13-45\n", "month"),
        ("a: " + "9" * 9000 + "\n", ""),
        ("? {a: b}\n: c\n", ""),
    ],
)
def test_hostile_front_matter_stays_in_the_text_with_a_reason(block, said):
    text = f"---\n{block}---\nbody\n"
    rest, metadata = split_front_matter(text)
    assert rest == text
    assert said in str(metadata["front_matter_error"])


def test_front_matter_beyond_64_kib_is_text():
    text = "---\na: " + "x" * 70_000 + "\n---\nbody"
    assert split_front_matter(text) == (text, {})


def test_plain_json_refuses_endless_nesting():
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested deeper"):
        to_plain_json(value)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Simple\n", "Simple"),
        ("intro\n\n# With anchor { #with-anchor }\n", "With anchor"),
        ("# Closed ##\n", "Closed"),
        ("# C# for all\n", "C# for all"),
        ("```sh\n# comment\n```\n# Real\n", "Real"),
        ("~~~\n```\n# still code\n~~~\n# Real\n", "Real"),
        ("Underlined\n==========\n", "Underlined"),
        ("## Only a second level\n", ""),
        ("#hashtag\n", ""),
        ("", ""),
    ],
)
def test_the_title_is_the_first_level_one_heading(text, title):
    assert find_markdown_title(text) == title


@pytest.mark.timeout(10)
@pytest.mark.parametrize("filler", [" ", "#", "{", "# "])
def test_a_hostile_heading_costs_no_time(filler):
    assert find_markdown_title("# a" + filler * 60_000 + "x").startswith("a")
