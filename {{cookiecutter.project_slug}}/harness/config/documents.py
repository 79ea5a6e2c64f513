"""The keys of documents, for experiments that learn from them: where they come from, and which of them."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Le

from harness.config.kinds import Above0, Count, Section, Share, Text, extra, key


class Documents(Section):
    kept: ClassVar[frozenset[str]] = frozenset({
        "name", "path", "val_path", "column", "config", "split", "dtype", "on_bad", "on_mismatch", "through",
        "files", "global_batch",
    })  # fmt: skip
    name: Text = key("the second part of the run's name")
    source: dict[Any, Any] = extra("where documents come from: a class with `check`, `fingerprint` and `documents`")
    through: dict[Any, Any] | None = extra("a class that is given the source and is a source itself")
    path: Text | None = extra("a file, a folder or a glob of UTF-8 text")
    column: Text | None = extra("the column of a table that holds the text")
    files: Text | list[Text] = extra("the column, or columns, of a table that name a picture or a sound each")
    config: Text | None = extra("the configuration of a data set of the hub that has several")
    split: Text | None = extra("the split of a data set of the hub to read; train where null")
    dtype: Literal["uint16", "uint32"] = extra("of files that hold numbers already")
    on_bad: Literal["error", "skip"] | None = extra("what cannot be used stops the preparation (null), or is left out")
    on_mismatch: Literal["convert", "error"] = extra("of pictures and sounds of another size or rate")
    sets: dict[Any, Any] = extra("of a mixture: {NAME: {data: …, weight: …, and options of that data config}}")
    limit: Above0 | None = extra("use a share (0.1, 1.0) or a number (1, 100) of the documents; null for all")
    val_fraction: Annotated[Share, Le(0.5)] = extra("the share of the documents held out for validation; 0 for none")
    val_path: Text | None = extra("validation text of its own: a path as `path`; then nothing is held out")
    num_workers: Count = extra("the number of loader processes; 0 loads in the training process")
    prepared: Text = extra("the folder of what is made of them, once")
