"""Make a log readable again: python devtools/repair_log.py IN [OUT] [--in-place] [--keep-ansi]

Finds the encoding on the whole file, replaces the bytes that belong to none, takes out colours, window titles and
hyperlinks, writes UTF-8. What is not text is refused. Our own train.log never needs it: this is for a console captured
by `tee`, a cluster's output file, a log of PowerShell's (UTF-16) or of an old Windows program.
"""

import argparse
import codecs
import re
import sys
from pathlib import Path

import charset_normalizer

sys.path.insert(0, str(Path(__file__).parents[1]))  # it runs in a project that is not installed, too
from harness.telemetry.plain import ANSI

BOMS = [  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
# How files that are not logs begin.
MAGIC = {
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"PK\x03\x04": "a zip archive (or a .pt or .docx file)",
    b"\x1f\x8b": "compressed with gzip", b"\x28\xb5\x2f\xfd": "compressed with zstd", b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz", b"%PDF": "a PDF", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture",
    b"SQLite format 3": "a database", b"\x89HDF": "an HDF5 file", b"\x7fELF": "a program",
}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x06\x0e-\x1a\x1c-\x1f]")  # not what a terminal is sent: tab, line ends, bell, escape
MOST_CONTROL = 0.02  # of the characters; text has none
# A letter of a Western language among ASCII ones, as in größer or déjà.
ACCENTED = re.compile(rb"(?<=[A-Za-z])[\x80-\xff]{1,2}|[\x80-\xff]{1,2}(?=[A-Za-z])")
REPEATED = re.compile(rb"([\x80-\xff])\1\1+")  # the lines of a table, a bar
ZEROS = re.compile(rb"\0{8,}")  # what a file system leaves of a write that a crash cut short
WESTERN = ("cp1252", "cp850")  # Windows, and its console


def refuse_binary(source: Path, data: bytes) -> None:
    """Raise ValueError for a file that is known not to be text by how it begins."""
    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")
    if kind:
        raise ValueError(f"{source} is not a log, it is {kind}. Unpack it, or read it with the library that wrote it.")


def detect(data: bytes) -> tuple[str, float]:
    """Return the encoding of a file and how sure that is, from 0 to 1."""
    for bom, name in BOMS:
        if data.startswith(bom):
            return name, 1.0
    if b"\0" not in data and valid_utf8(data) == 1.0:
        return "utf-8", 1.0
    # Mostly Western text in UTF-16 without a mark: every second byte is 0.
    for name, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if (share := zeros.count(0) / max(1, len(zeros))) > 0.7:
            return name, share
    if (share := valid_utf8(data)) > 0.5:  # UTF-8, damaged: a guesser would spoil the whole for the sake of some bytes
        return "utf-8", share
    if found := western(data):
        return found
    best = charset_normalizer.from_bytes(data, steps=64, chunk_size=max(512, len(data) // 64)).best()
    # Nothing fits: cp1252 shows each byte as a letter or a sign, so that nothing is lost.
    return (best.encoding, 1 - best.chaos) if best else ("cp1252", 0.0)


def western(data: bytes) -> tuple[str, float] | None:
    """Tell cp1252 (and Latin-1) from cp850 where most bytes beyond ASCII stand inside words of ASCII letters.

    A guesser by languages needs more text than a short log has.
    """
    data = REPEATED.sub(b"", data)
    inside = sum(map(len, ACCENTED.findall(data)))
    if 3 * inside < sum(byte > 127 for byte in data):
        return None
    shares = {name: letters(data, name) for name in WESTERN}
    best = max(WESTERN, key=lambda name: shares[name])
    return (best, shares[best]) if shares[best] > 0.5 else None


def letters(data: bytes, encoding: str) -> float:
    """Return which part of the characters beyond ASCII that touch an ASCII letter fit it: letters, of the same case."""
    text = data.decode(encoding, errors="replace")
    pairs = re.findall(r"(?=([A-Za-z][^\0-\x7f]|[^\0-\x7f][A-Za-z]))", text)
    fits = sum(pair.isalpha() and (pair[1].islower() or pair.isupper()) for pair in pairs)
    return fits / max(1, len(pairs))


def valid_utf8(data: bytes) -> float:
    """Return which part of the characters beyond ASCII is valid UTF-8; 1 where there are none."""
    text = data.decode("utf-8", errors="surrogateescape")
    bad = len(re.findall("[\udc80-\udcff]", text))
    beyond = len(re.findall("[^\0-\x7f]", text))
    return 1 - bad / beyond if beyond else 1.0


def repair(data: bytes, *, keep_ansi: bool = False) -> tuple[str, str]:
    """Return the text of a log and what was done to it, in words. Raises ValueError where it is not text."""
    size = len(data)
    data = ZEROS.sub(b"", data)
    zeros = size - len(data)
    encoding, sure = detect(data)
    bad: list[UnicodeError] = []

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        bad.append(error)
        return "\ufffd", error.end  # type: ignore[attr-defined]  # a decode error has it

    codecs.register_error("count-and-replace", replace)
    text = data.decode(encoding, errors="count-and-replace")
    if len(CONTROL.findall(text)) > MOST_CONTROL * len(text):
        raise ValueError("It is not a log: too much of it is control characters, which no text has.")
    text, stripped = (text, 0) if keep_ansi else ANSI.subn("", text)
    done = [f"{encoding} ({sure:.0%} sure)", f"{len(bad)} bad places", f"{stripped} escape sequences"]
    return text, ", ".join(done + [f"{zeros} zero bytes"] * bool(zeros))


def target(source: Path, out: Path | None, in_place: bool) -> Path:
    """Return where to write. Raises ValueError rather than write over the input unasked."""
    if in_place:
        return source
    out = out or source.with_suffix(f".repaired{source.suffix}")
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the input itself. Give another OUT, or --in-place to replace it.")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="default: IN.repaired.log")
    parser.add_argument("--in-place", action="store_true", help="replace IN")
    parser.add_argument("--keep-ansi", action="store_true", help="leave colours and other escape sequences in")
    args = parser.parse_args()
    try:
        out = target(args.source, args.out, args.in_place)
        refuse_binary(args.source, data := args.source.read_bytes())
        text, done = repair(data, keep_ansi=args.keep_ansi)
        beside = out.with_name(f"{out.name}.tmp")
        beside.write_text(text, encoding="utf-8", newline="")  # the line ends stay as they are
        beside.replace(out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{args.source}: {done} -> {out}")


if __name__ == "__main__":
    main()
