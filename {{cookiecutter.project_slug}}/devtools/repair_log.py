"""Make a log readable again: python devtools/repair_log.py IN [OUT] [--in-place]

Finds the encoding on the whole file, replaces the bytes that belong to none, takes out colours, window titles and
hyperlinks, writes UTF-8. Our own train.log never needs it: this is for a console captured by `tee`, a cluster's output
file, a log of PowerShell's (UTF-16) or of an old Windows program.
"""

import argparse
import codecs
import re
import sys
from pathlib import Path

import charset_normalizer

sys.path.insert(0, str(Path(__file__).parents[1]))  # it runs in a project that is not installed, too
from harness.telemetry.logs import ANSI

BOMS = [  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


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
    best = charset_normalizer.from_bytes(data, steps=64, chunk_size=max(512, len(data) // 64)).best()
    return (best.encoding, 1 - best.chaos) if best else ("utf-8", share)


def valid_utf8(data: bytes) -> float:
    """Return which part of the characters beyond ASCII is valid UTF-8; 1 where there are none."""
    text = data.decode("utf-8", errors="surrogateescape")
    bad = len(re.findall("[\udc80-\udcff]", text))
    beyond = len(re.findall("[^\0-\x7f]", text))
    return 1 - bad / beyond if beyond else 1.0


def repair(data: bytes) -> tuple[str, str]:
    """Return the text of a log and what was done to it, in words."""
    encoding, sure = detect(data)
    bad: list[UnicodeError] = []

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        bad.append(error)
        return "\ufffd", error.end  # type: ignore[attr-defined]  # a decode error has it

    codecs.register_error("count-and-replace", replace)
    text = data.decode(encoding, errors="count-and-replace")
    text, stripped = ANSI.subn("", text)
    return text, f"{encoding} ({sure:.0%} sure), {len(bad)} bad places, {stripped} escape sequences"


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
    args = parser.parse_args()
    try:
        out = target(args.source, args.out, args.in_place)
        text, done = repair(args.source.read_bytes())
        beside = out.with_name(f"{out.name}.tmp")
        beside.write_text(text, encoding="utf-8", newline="")  # the line ends stay as they are
        beside.replace(out)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{args.source}: {done} -> {out}")


if __name__ == "__main__":
    main()
