"""GNU gettext ``.mo`` catalogues of installed packages, found and read without importing the package."""

import difflib
import gettext
import importlib.metadata
import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path

_LITTLE, _BIG = b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"


@dataclass(frozen=True)
class Message:
    """One entry of a catalogue.

    Attributes:
        text: the original, in its singular form.
        translation: its translation; the form that the language uses for exactly one, where it has several.
        context: what tells equal originals apart, or ``None``.
    """

    text: str
    translation: str
    context: str | None = None


def read_mo(path: str | Path) -> list[Message]:
    """Read the translated messages of a ``.mo`` file, in the file's order, without its header entry.

    The standard library's ``gettext.GNUTranslations`` reads the same format; this reader says what is wrong, and where.

    Raises:
        ValueError: not a ``.mo`` file, cut short, or text that its own character set cannot decode; names the entry.

    Example:
        >>> path = find_catalogues("django")["fr"][0]
        >>> [message.translation for message in read_mo(path) if message.text == "Yes"]
        ['Oui']
    """
    path = Path(path)
    data = path.read_bytes()
    order = {_LITTLE: "<", _BIG: ">"}.get(data[:4])
    if order is None or len(data) < 20:
        raise ValueError(f"{path}: not a .mo catalogue: starts with {data[:4]!r}, want {_LITTLE!r} or {_BIG!r}")
    revision, count, originals, translations = struct.unpack(f"{order}4I", data[4:20])
    if revision >> 16 > 1:
        raise ValueError(f"{path}: revision {revision >> 16}.{revision & 0xFFFF} of the .mo format; want 0 or 1")

    def entry(table: int, number: int) -> bytes:
        place = table + 8 * number
        if place + 8 > len(data):
            raise ValueError(
                f"{path}: entry {number} of {count} lies at byte {place} of {len(data)}; is the file cut short?"
            )
        size, start = struct.unpack(f"{order}2I", data[place : place + 8])
        if start + size > len(data):
            raise ValueError(
                f"{path}: the text of entry {number} ends at byte {start + size} of {len(data)}; is the file cut short?"
            )
        return data[start : start + size]

    charset, singular = "utf-8", 0
    messages = []
    for number in range(count):
        raw = entry(originals, number), entry(translations, number)
        try:
            original, translation = (part.decode(charset) for part in raw)
        except (ValueError, LookupError) as error:
            raise ValueError(f"{path}: entry {number} is not text in {charset}: {error}") from error
        if not original:
            charset, singular = _header(translation, path)
            continue
        context, _, text = original.rpartition("\x04")
        forms = translation.split("\0")
        if "\0" in text and not 0 <= singular < len(forms):
            raise ValueError(
                f"{path}: entry {number} ({text!r}) has {len(forms)} plural forms, but its rule wants number {singular}"
            )
        chosen = forms[singular] if "\0" in text else translation
        messages.append(Message(text.split("\0")[0], chosen, context or None))
    return messages


def _header(text: str, path: Path) -> tuple[str, int]:
    """Character set, and which of the plural forms is used for one."""
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    charset = fields.get("content-type", "").partition("charset=")[2].strip() or "utf-8"
    plural = fields.get("plural-forms", "").partition("plural=")[2].strip().removesuffix(";")
    try:
        return charset, gettext.c2py(plural)(1) if plural else 0
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{path}: cannot read its plural rule {plural!r}: {error}") from error


def find_catalogues(package: str) -> dict[str, tuple[Path, ...]]:
    """Find the catalogues of an installed package: language code to files, both sorted.

    Args:
        package: import name (``django``) or distribution name (``Django``). It is looked up, never imported.

    Raises:
        ValueError: the package is not installed (names the nearest that is) or has no ``<language>/LC_MESSAGES/*.mo``.

    Example:
        >>> catalogues = find_catalogues("django")
        >>> len(catalogues) > 50, catalogues["fr"][0].name
        (True, 'django.mo')
    """
    found: dict[str, list[Path]] = {}
    for root in _folders(package):
        for path in sorted(root.rglob("*.mo")):
            if path.parent.name == "LC_MESSAGES":
                found.setdefault(path.parent.parent.name, []).append(path)
    if not found:
        raise ValueError(
            f"package {package!r} is installed but has no <language>/LC_MESSAGES/*.mo catalogue; "
            "use one that ships translations, such as django"
        )
    return {language: tuple(found[language]) for language in sorted(found)}


def _folders(package: str) -> list[Path]:
    # A dotted name would import its parent, and code of a package named in a recipe must not run.
    if not package.replace("-", "_").isidentifier():
        raise ValueError(f"got package={package!r}; want the name of an installed top-level package, such as django")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(_not_installed(package)) from None
    tops = {Path(str(file.locate())).parents[len(file.parts) - 2] for file in files if file.suffix == ".mo"}
    return sorted(tops)


def _not_installed(package: str) -> str:
    if package.lower() == "django":
        return (
            "package 'django', whose translations are the data, is not installed; run: pip install \"fulgurite[data]\""
        )
    installed = {str(item.metadata["Name"]) for item in importlib.metadata.distributions() if item.metadata["Name"]}
    near = difflib.get_close_matches(package, sorted(installed), n=3)
    hint = f"the nearest installed ones are {', '.join(near)}" if near else f"run: pip install {package}"
    return f"package {package!r} is not installed; {hint}"


def read_language(catalogues: dict[str, tuple[Path, ...]], language: str) -> dict[str, str]:
    """Translations into one language, by original text; the first wins where catalogues repeat a text.

    Untranslated entries are left out. (Fuzzy ones never get into a ``.mo`` file.)

    Raises:
        ValueError: no catalogue for ``language``; names the nearest ones.

    Example:
        >>> read_language(find_catalogues("django"), "de")["No"]
        'Nein'
    """
    if language not in catalogues:
        plain = {code.lower().replace("_", "-"): code for code in catalogues}
        wanted = language.lower().replace("_", "-")
        # "zh" is nearer to "zh-hans" than any spelling distance says.
        near = [plain[code] for code in plain if code.split("-")[0] == wanted.split("-")[0]]
        near = near or [plain[code] for code in difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5)]
        raise ValueError(f"no catalogue for language {language!r}; nearest: {', '.join(near or sorted(catalogues))}")
    texts: dict[str, str] = {}
    for path in catalogues[language]:
        for message in read_mo(path):
            if message.text.strip() and message.translation.strip():
                texts.setdefault(message.text, message.translation)
    return texts
