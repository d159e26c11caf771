"""Annotation lists and label maps: the formats that are read, and what is refused."""

import time

import pytest

from r2plus1d.datasets import annotations
from r2plus1d.datasets.annotations import Sample


@pytest.mark.parametrize(
    "line", ["0wR5jVB-WPk, 250, 3", "0wR5jVB-WPk 250 3", "0wR5jVB-WPk,250,3", " 0wR5jVB-WPk\t250 3 "]
)
def test_published_list_is_read_with_commas_and_with_blanks(line):
    assert annotations.parse(f"first 300 0\n{line}\n", "list")[1] == Sample("0wR5jVB-WPk", 250, 3)


@pytest.mark.parametrize("text", ["b c\na\n", "0 b c\n1 a\n", "a 1\nb c 0\n", "1 b c\n2 a\n", "b c, 0\n\na, 1\n"])
def test_label_maps_of_all_layouts_number_the_classes_alike(text):
    assert annotations.parse_label_map(text, "map") == ["b c", "a"]


@pytest.mark.parametrize(
    "text",
    [
        *("id,name\n0,b c\n1,a\n", 'id,name\n0,"b c"\n1,"a"\n', '"b c",0\n"a",1\n', "name id\na 1\nb c 0\n"),
        *("1: a\n0: b c\n", "id;name\n1;a\n0;b c\n", '"b c"\n"a"\n'),
    ],
)
def test_label_maps_of_csv_files_are_read_with_headings_and_quotes(text):
    assert annotations.parse_label_map(text, "map") == ["b c", "a"]


def test_names_with_commas_and_numbers_stay_whole():
    assert annotations.parse_label_map('0,"walk, slowly"\n1,run\n', "map") == ["walk, slowly", "run"]
    assert annotations.parse_label_map("level 2\nrest\nwalk, slowly\n", "map") == ["level 2", "rest", "walk, slowly"]
    assert annotations.parse_label_map("0 level 2\n1 level 7\n", "map") == ["level 2", "level 7"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "map: empty"),
        ("a\nb\na\n", "class 'a' stands there twice"),
        ("name\na\nb\n", "'name', looks like a heading"),
        ("0 a\n1 b\nc\n", "'c' has no label, though most lines have"),
        ("0 a\n2 b\n", r"labels are not 0, 1, 2, ... \(there are 0 to 2 on 2 lines\)"),
        ("0 a\n0 b\n1 c\n", "labels are not 0, 1, 2"),
        ("id,name,group\n0,a\n1,b\n", "'id,name,group' has no label"),
        ("# the classes\na\nb\n", "'# the classes' looks like a comment"),
        ("names:\n- a\n- b\n", "'names:', looks like a heading"),
        ('[\n"a",\n"b"\n]\n', "looks like JSON; write one class name a line"),
        ('{\n"a": 0,\n"b": 1\n}\n', "looks like JSON; write one class name a line"),
        ("\u00e9\nb\ne\u0301\n", "class '\u00e9' stands there twice"),
    ],
)
def test_spoilt_label_map_is_refused(text, words):
    with pytest.raises(annotations.ListError, match=words):
        annotations.parse_label_map(text, "map")


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4 0\r\n\r\nb.mp4 1\r\n\r\n")
    assert annotations.parse(annotations.read_text(tmp_path / "list.txt"), "list") == [
        Sample("a.mp4", 0, 0),
        Sample("b.mp4", 0, 1),
    ]


def test_file_without_end_is_no_list():
    with pytest.raises(annotations.ListError, match="/dev/zero: more than 268435456 bytes, so no list"):
        annotations.read_text("/dev/zero")


def test_one_endless_line_is_refused_in_few_words():
    with pytest.raises(annotations.ListError, match=r"line 2: .* found 'a , , , "):
        annotations.parse("good.mp4 90 0\n" + "a" + " ," * 1_000_000 + " x\n", "list")
    with pytest.raises(annotations.ListError, match="line 1"):
        annotations.parse("a" + " " * 1_000_000 + "x\n", "list")


@pytest.mark.parametrize("line", ["a.mp4 90", "a.mp4 x 0", "a.mp4 90 -1", "90 0"])
def test_malformed_line_is_refused_by_its_number(line):
    with pytest.raises(annotations.ListError, match="line 2"):
        annotations.parse(f"good.mp4 90 0\n{line}\n", "list.txt")


ODD_NAMES = [
    "a  b/c, d.mp4",
    "a/'q' \"r\" #1 %n $x.mp4",
    "-rf/--x.mp4",
    "\u00e9/e\u0301.mp4",
    "a/1 2 3.mp4",
    ",a/1,2.mp4",
    "a/b\\n.mp4",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name_is_the_same_after_its_way_through_a_list(name):
    assert annotations.writable(name)
    samples = [Sample(name, 90, 7), Sample("x.mp4", 1, 0)]
    assert annotations.parse(annotations.format_frames(samples), "list") == samples
    assert [s.path for s in annotations.parse(annotations.format_videos(samples), "list")] == [name, "x.mp4"]


BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # where str.splitlines ends a line


@pytest.mark.parametrize("character", [*BREAKS, "\0", "\x1b", "\u202e", "\u200b", "\u00a0", "\ud800", "\ufeff"])
def test_invisible_character_in_a_path_or_a_class_is_refused(character):
    assert not annotations.writable(f"a{character}b.mp4")
    with pytest.raises(annotations.ListError, match="line 2"):
        annotations.parse(f"x.mp4 90 0\na{character}b.mp4 90 0\n", "list")
    with pytest.raises(annotations.ListError, match="no class name"):
        annotations.parse_label_map(f"x\na{character}b\n", "map")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_are_read(tmp_path, ending):
    (tmp_path / "list.txt").write_bytes(ending.join(["a.mp4 0", "b.mp4 1", ""]).encode())
    assert annotations.parse(annotations.read_text(tmp_path / "list.txt"), "list") == [
        Sample("a.mp4", 0, 0),
        Sample("b.mp4", 0, 1),
    ]
    assert annotations.parse(f"a.mp4 0{ending}b.mp4 1", "list") == [Sample("a.mp4", 0, 0), Sample("b.mp4", 0, 1)]


def test_list_in_another_encoding_or_of_bytes_is_refused(tmp_path):
    for content in ("a.mp4 0\n".encode("utf-16"), b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(annotations.ListError, match=r"list\.txt"):
            annotations.parse(annotations.read_text(tmp_path / "list.txt"), "list.txt")


@pytest.mark.parametrize("number", ["1000000000", "9" * 5000, "-1", "+1", "1e3", "0x1", "\u0663"])
def test_number_of_another_kind_is_refused(number):
    for line in (f"a.mp4 {number} 0", f"a.mp4 90 {number}"):
        with pytest.raises(annotations.ListError, match="line 2"):
            annotations.parse(f"x.mp4 90 0\n{line}\n", "list")


@pytest.mark.parametrize(
    "text", ["a " * 2_000_000, "a" + " " * 2_000_000 + "1", "9" * 5000 + " a\n1 b\n", "a " + "9" * 5000]
)
def test_endless_line_of_a_label_map_is_read_quickly(text):
    began = time.monotonic()
    try:
        names = annotations.parse_label_map(text, "map")
    except annotations.ListError:
        names = []
    assert all(len(name) < 5100 for name in names)
    assert time.monotonic() - began < 2
