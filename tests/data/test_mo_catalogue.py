import gettext
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.mo_catalogue import find_catalogues, read_language, read_mo

HEADER = "Content-Type: text/plain; charset={charset}\nPlural-Forms: nplurals=2; plural={plural};\n"


def mo_file(entries, *, order="<", charset="utf-8", plural="(n != 1)"):
    """The bytes of a catalogue, as msgfmt writes it."""
    texts = {"": HEADER.format(charset=charset, plural=plural), **entries}
    pairs = sorted((key.encode(charset), value.encode(charset)) for key, value in texts.items())
    tables, body, start = [], b"", 28 + 16 * len(pairs)
    for column in (0, 1):
        for pair in pairs:
            tables.append((len(pair[column]), start + len(body)))
            body += pair[column] + b"\0"
    numbers = [0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, start]
    return struct.pack(f"{order}{len(numbers) + 2 * len(tables)}I", *numbers, *sum(tables, ())) + body


SOME = mo_file({"Yes": "Oui", "menu\x04Open": "Ouvrir", "%d day\0%d days": "%d jour\0%d jours"})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that must not be imported."""
    root = tmp_path / "translated_thing"
    for language, text in (("fr", "Oui"), ("pt_BR", "Sim")):
        folder = root / "deep" / "locale" / language / "LC_MESSAGES"
        folder.mkdir(parents=True)
        (folder / "a.mo").write_bytes(mo_file({"Yes": text, "Empty": " "}))
        (folder / "b.mo").write_bytes(mo_file({"Yes": "second", "No": "Non"}))
    (root / "__init__.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


@pytest.mark.parametrize("language", ["ar", "cy", "fr", "ja", "ru"])
def test_reads_what_the_standard_library_reads(language):
    for path in find_catalogues("django")[language]:
        with path.open("rb") as file:
            reference = gettext.GNUTranslations(file)
        messages = read_mo(path)
        assert len(messages) > 5
        for message in messages:
            if message.context:
                assert message.translation in (
                    reference.pgettext(message.context, message.text),
                    reference.npgettext(message.context, message.text, "", 1),
                )
            else:
                assert message.translation in (
                    reference.gettext(message.text),
                    reference.ngettext(message.text, "", 1),
                )


@pytest.mark.parametrize("order", ["<", ">"])
def test_reads_context_and_the_form_for_one_in_either_byte_order(tmp_path, order):
    path = tmp_path / "a.mo"
    path.write_bytes(mo_file({"menu\x04Open": "Ouvrir", "%d day\0%d days": "a\0b"}, order=order, plural="n == 1"))
    assert {(m.context, m.text, m.translation) for m in read_mo(path)} == {
        ("menu", "Open", "Ouvrir"),
        (None, "%d day", "b"),
    }


def test_reads_other_character_sets(tmp_path):
    path = tmp_path / "a.mo"
    path.write_bytes(mo_file({"Summer": "été"}, charset="iso-8859-1"))
    assert read_mo(path)[0].translation == "été"


@settings(deadline=None)
@given(cut=st.integers(0, len(SOME) - 2))
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "a.mo"
    path.write_bytes(SOME[:cut])
    with pytest.raises(ValueError, match=r"a\.mo: (not a \.mo|entry|the text of entry)"):
        read_mo(path)


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, len(SOME) - 1), byte=st.integers(0, 255))
def test_a_damaged_byte_gives_messages_or_a_clear_refusal(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("damaged") / "a.mo"
    path.write_bytes(SOME[:place] + bytes([byte]) + SOME[place + 1 :])
    try:
        outcome = f"a.mo: {len(read_mo(path))} messages"
    except ValueError as error:
        outcome = str(error)
    assert "a.mo: " in outcome


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(30), "not a .mo catalogue: starts with b'PK"),
        (mo_file({"a": "b"}, plural="n +"), "plural rule 'n [+]'"),
        (mo_file({"a": "b"}, plural="1 / 0"), "plural rule '1 / 0'"),
        (mo_file({"a\0b": "c"}, plural="2"), "1 plural forms, but its rule wants number 2"),
        (mo_file({"a": "b"}).replace(b"=utf-8", b"=utf-9"), "entry 1 is not text in utf-9"),
        (mo_file({"a": "b?"}).replace(b"b?", b"b\xff"), "entry 1 is not text in utf-8"),
        (SOME[:4] + struct.pack("<I", 2 << 16) + SOME[8:], r"revision 2\.0"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path, data, message):
    path = tmp_path / "a.mo"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_mo(path)


def test_finds_catalogues_without_importing_the_package(package):
    catalogues = find_catalogues("translated_thing")
    assert list(catalogues) == ["fr", "pt_BR"]
    assert [path.name for path in catalogues["fr"]] == ["a.mo", "b.mo"]
    assert "translated_thing" not in sys.modules


def test_the_first_translation_of_a_text_counts_and_empty_ones_do_not(package):
    assert read_language(find_catalogues("translated_thing"), "fr") == {"Yes": "Oui", "No": "Non"}


@pytest.mark.parametrize(("language", "near"), [("pt", "pt_BR"), ("pt-BR", "pt_BR"), ("fx", "fr"), ("xx", "fr, pt_BR")])
def test_an_unknown_language_brings_the_nearest_one(package, language, near):
    with pytest.raises(ValueError, match=f"no catalogue for language '{language}'; nearest: {near}$"):
        read_language(find_catalogues("translated_thing"), language)


def test_a_missing_package_brings_the_nearest_one_or_the_extra(monkeypatch):
    with pytest.raises(ValueError, match=r"'hypotesis' is not installed; the nearest installed ones are hypothesis"):
        find_catalogues("hypotesis")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.files", missing)
    with pytest.raises(ValueError, match=r'pip install "fulgurite\[data\]"'):
        find_catalogues("django")


def missing(name):
    import importlib.metadata

    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("name", ["os.path", "", "../x"])
def test_a_name_that_would_import_something_is_refused(name):
    with pytest.raises(ValueError, match="top-level package"):
        find_catalogues(name)


def test_a_package_without_catalogues_is_named():
    with pytest.raises(ValueError, match="'hypothesis' is installed but has no"):
        find_catalogues("hypothesis")


def test_finds_a_package_by_its_distribution_name():
    assert find_catalogues("Django") == find_catalogues("django")
