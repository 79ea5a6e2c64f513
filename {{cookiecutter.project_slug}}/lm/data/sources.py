"""Where text comes from. A source yields documents in a fixed order and knows a fingerprint of their content.

    source -> documents -> split and tokens on disk -> windows -> batches
              (harness)    prepare.py, encode.py       windows.py datamodule.py

These names are what conf/data/ says; how files are read is harness/data/. A source of one's own is a class with the
three methods of `Source`, in a module of one's own, and a YAML file of four lines in conf/data/.
"""

from harness.data.documents import Document, Source
from harness.data.sources import FileSource, StdlibSource, TextSource

__all__ = ["Document", "FileSource", "Source", "StdlibSource", "TextSource"]
