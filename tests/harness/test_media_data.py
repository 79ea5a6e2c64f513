"""Pictures and sounds on their way to the encoder: what is made of each file, what is refused, and which rows they
fill."""

import base64
import csv
import json
import logging
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from devtools import check_data
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import ENCODERS, broken, pictures, ramp, recorded, saved, sounds, tone
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    CLIPImageProcessorPil,
    SiglipImageProcessorPil,
    WhisperFeatureExtractor,
)

from harness.data.documents import MARK, Document, Medium
from harness.data.sources import TextSource
from harness.data.tables import HfSource
from harness.errors import UserError
from lm.batch import NO_LABEL
from lm.data.chat import ChatSource
from lm.data.tokenizer import TokenizerChoice, train_tokenizer
from media import decode
from media.captions import CaptionSource
from media.datamodule import MediaData
from media.encoders import plan
from media.facts import read, said
from media.processors import Pictures, Sounds, processors
from media.source import WithMedia
from media.toys import Both, Colours, Notes

CLOSE = 1e-6


class Documents:
    """Documents that a test writes down."""

    on_bad = "error"

    def __init__(self, *documents: Document) -> None:
        self.given = documents

    def check(self) -> None: ...

    def fingerprint(self) -> str:
        return str([(document.text, document.loss_spans, document.media) for document in self.given])

    def documents(self) -> Any:
        yield from self.given


def made(source: Any, folder: Path, *, encoders: Any = ENCODERS, context: int = 64, **arguments: Any) -> MediaData:
    how = {"batch_size": 1, "val_fraction": 0.0, "prepared": str(folder / "prepared"), **arguments}
    data = MediaData(WithMedia(source, encoders, how.pop("on_mismatch", "convert")), encoders=encoders, **how)
    data.connect(vocab_size=400, context=context, seed=0)
    return data


@pytest.mark.parametrize("kind", [SiglipImageProcessorPil, CLIPImageProcessorPil])
@pytest.mark.parametrize("name", pictures())
def test_pixels_are_those_of_the_encoders_own_processor(name: str, kind: Any, tmp_path: Path) -> None:
    content, seen, changes = pictures()[name]
    square = {"height": 32, "width": 32}
    size = {"size": {"shortest_edge": 32}, "crop_size": square} if kind is CLIPImageProcessorPil else {"size": square}
    kind(**size).save_pretrained(tmp_path)
    own = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    stored, heard, facts = (pictured := Pictures(own, (3, 32, 32)))(content)
    picture, _ = decode.picture(content)
    if seen is not None:
        np.testing.assert_array_equal(np.asarray(picture), seen)
    assert (stored.dtype, stored.shape, heard) == (np.uint8, (3, 32, 32), 1)
    assert set(facts["changes"]) == changes | {"size"}
    pixels = pictured.restored(stored).astype(np.float32) * np.float32(pictured.rescale)
    normal = (pixels - np.reshape(pictured.mean, (3, 1, 1))) / np.reshape(pictured.std, (3, 1, 1))
    expected = own(np.asarray(picture) if seen is None else seen, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(normal, expected, atol=CLOSE)


@pytest.mark.parametrize("name", sounds())
def test_frames_are_those_of_the_encoders_own_extractor(name: str, tmp_path: Path) -> None:
    content, rate, changes = sounds()[name]
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(tmp_path)
    own = AutoFeatureExtractor.from_pretrained(tmp_path)
    stored, heard, facts = (heared := Sounds(own, (80, 100)))(content)
    (tmp_path / name).write_bytes(content)
    with soundfile.SoundFile(tmp_path / name) as file:
        samples = file.read(dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, 16_000)
    expected = own(mono, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(heared.restored(stored), expected, atol=CLOSE)
    assert stored.shape[1] < 100  # the silence up to the end of the window is not kept
    assert (facts["rate"], set(facts["changes"])) == (rate, changes)
    assert heard == pytest.approx(80, abs=1)
    # Whatever the rate, the tone is heard where it is: 440 Hz, and not 2.76 times as high.
    true = own(tone(16_000)[:, 0], sampling_rate=16_000, return_tensors="np")["input_features"][0]
    middle = heared.restored(stored)[:, 20:60]
    assert (middle.argmax(axis=0) == true[:, 20:60].argmax(axis=0)).all()


def test_there_are_enough_files_in_the_tables() -> None:
    assert len(pictures()) + len(sounds()) >= 30
    assert len(broken()) >= 20


def captions(folder: Path, files: dict[str, bytes | None]) -> Path:
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "text"), *((name, f"this is {name}") for name in files)])
    return folder


@pytest.mark.parametrize("name", broken())
def test_a_file_that_cannot_be_used_is_named_with_its_row(name: str, tmp_path: Path) -> None:
    content, why = broken()[name]
    path = captions(tmp_path, {"rgb.png": pictures()["rgb.png"][0], name: content})
    with pytest.raises(UserError) as caught:
        made(CaptionSource(str(path)), tmp_path)
    assert all(part in str(caught.value) for part in ("metadata.csv:3", name, why, "data.on_bad=skip"))


def test_broken_files_are_left_out_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = broken()
    good = {name: content for name, (content, *_) in (*pictures().items(), *sounds().items())}
    path = captions(tmp_path, good | {name: content for name, (content, _) in bad.items()})
    with caplog.at_level(logging.INFO):
        data = made(CaptionSource(str(path), on_bad="skip"), tmp_path, context=96)
    assert data.prepared.meta["train"]["documents"] == len(good)
    folder = data.prepared.folder
    listed = [
        json.loads(line)
        for file in (folder / "skipped.jsonl", folder / "train.skipped.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(listed) == len(bad)
    for name, (_, why) in bad.items():
        assert any(name in each["why"] and why in each["why"] for each in listed), name
    assert f"{len(bad) - 2} documents with media that cannot be used were left out" in caplog.text


def test_each_kind_of_change_is_a_sentence_with_a_count(tmp_path: Path) -> None:
    wide, small = Image.fromarray(ramp()), Image.new("RGB", (32, 32))
    files = {
        "a.png": saved(wide.resize((600, 400)), "PNG"), "b.png": saved(wide, "PNG"), "c.png": saved(small, "PNG"),
        "d.png": saved(wide.convert("RGBA"), "PNG"),
        "e.wav": recorded("WAV", tone(8_000), 8_000), "f.wav": recorded("WAV", tone(48_000, 2), 48_000),
        "g.wav": recorded("WAV", tone(16_000), 16_000),
    }  # fmt: skip
    data = made(CaptionSource(str(captions(tmp_path, files))), tmp_path)
    assert sorted(said(read(data.prepared.folder), data.source.processors)) == [
        "1 of 3 sounds had several channels, which were mixed into one.",
        "2 of 3 sounds had another rate, 8,000 Hz to 48,000 Hz, and were resampled to 16,000 Hz.",
        "3 of 4 pictures had another size, 40x24 to 600x400, and were made 32x32.",
    ]
    with pytest.raises(UserError, match=r"a\.png is not as its encoder takes it \(size\).*on_mismatch=convert"):
        made(CaptionSource(str(tmp_path)), tmp_path, on_mismatch="error")


def test_check_data_tells_sizes_rates_lengths_conversions_and_what_is_filled(tmp_path: Path) -> None:
    files = {name: content for name, (content, *_) in (*pictures().items(), *sounds().items())}
    path = captions(tmp_path, files | {name: content for name, (content, _) in broken().items()})
    typed = ["model=tiny", "data=captions", f"data.path='{path}'", "data.on_bad=skip", "encoders=tiny"]
    findings = list(check_data.findings([*typed, "data.val_fraction=0.2", f"data.prepared='{tmp_path / 'p'}'"]))
    text = "\n".join(map(str, findings))
    assert not [each for each in findings if each.level == "failure"], text
    for part in (
        "21 pictures of 24x40 to 40x24; 9",
        "20 sounds of 0.8 to 1.2 s, half of them up to 0.8 s; at 16,000 Hz (40%)",
        "21 of 21 pictures had another size, 24x40 to 40x24, and were made 224x224.",
        "20 documents with media that cannot be used were left out",
        "tokens of 64",
        "of image slots",
    ):
        assert part in text, text


def test_check_data_finds_a_picture_of_the_validation_set_that_is_trained_on() -> None:
    first, second = Colours(2).documents()
    found = check_data.look([("train", first), ("train", second), ("val", replace(first, text=MARK + "other words"))])
    (said_of,) = [each for each in check_data.split(found) if each.level == "warning"]
    assert "1 pictures or sounds of the validation set are in the training set, too" in said_of.message


def test_captions_are_read_from_every_kind_of_table(tmp_path: Path) -> None:
    captions(tmp_path, {"a.png": pictures()["rgb.png"][0], "b.wav": sounds()["16000 2.wav"][0]})
    rows = [{"file_name": "a.png", "text": "this is a.png"}, {"file_name": "b.wav", "text": "this is b.wav"}]
    (tmp_path / "t.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "t.tsv").write_text("file_name\ttext\na.png\tthis is a.png\nb.wav\tthis is b.wav\n", encoding="utf-8")
    expected = [(MARK + row["text"], row["file_name"]) for row in rows]
    for path in (tmp_path, *(tmp_path / f"t.{kind}" for kind in ("json", "jsonl", "tsv"))):
        source = CaptionSource(str(path))
        source.check()
        found = [(each.text, Path(each.media[0].name).name) for each in source.documents()]
        assert found == expected, path
    before = CaptionSource(str(tmp_path)).fingerprint()
    (tmp_path / "a.png").write_bytes(pictures()["grey.png"][0])
    assert CaptionSource(str(tmp_path)).fingerprint() != before


def test_a_picture_is_never_on_both_sides_whatever_is_said_of_it(tmp_path: Path) -> None:
    pngs = [saved(Image.fromarray(np.full((8, 8, 3), shade, np.uint8)), "PNG") for shade in range(40)]

    def of(number: int, *shades: int) -> Document:
        media = tuple(Medium("image", pngs[shade], f"{shade}") for shade in shades)
        return Document(f"{number}", f"{MARK * len(shades)}caption {number}", media=media)

    several = [of(1000 + number, number, (number * 7 + 3) % 40) for number in range(40)]
    source = Documents(*(of(number, number % 40) for number in range(200)), *several)
    data = made(source, tmp_path, encoders={"image": ENCODERS["image"]}, val_fraction=0.3)
    sides = {}
    for split in ("train", "val"):
        lines = (data.prepared.folder / f"{split}.documents.jsonl").read_text(encoding="utf-8").splitlines()
        sides[split] = {medium["name"] for line in lines for medium in json.loads(line)["media"]}
    assert not sides["train"] & sides["val"]
    assert sides["train"] | sides["val"] == {str(shade) for shade in range(40)}


def test_the_loss_counts_the_answer_and_its_end_and_no_placeholder(tmp_path: Path) -> None:
    picture = Medium("image", pictures()["rgb.png"][0], "a")
    text = f"{MARK}What? <|image|> It is red"
    asked = Document("asked", text, ((text.index("It is"), len(text)),), (picture,))
    data = made(Documents(asked, Document("plain", "<|audio|> stays text")), tmp_path, packing=False, limit=1.0)
    outputs = plan("image", ENCODERS["image"]).outputs
    row, other = data.train_set[0], data.train_set[1]
    placeholder = data.tokenizer.token_to_id("<|image|>")
    assert (row["input_ids"] == placeholder).sum() == outputs  # what spells one is text
    counted = row["labels"][row["labels"] != NO_LABEL]
    assert data.tokenizer.decode(counted.tolist(), skip_special_tokens=False) == "It is red<|endoftext|>"
    assert row["image_at"].tolist() == [*range(outputs), *[-1] * (64 - outputs)]
    assert (other["image_at"] == -1).all() and not other["image"].any()
    said_back = data.tokenizer.decode(other["input_ids"].tolist(), skip_special_tokens=False)
    assert said_back.startswith("<|audio|> stays text<|endoftext|>")
    assert data.tokenizer.token_to_id("<|audio|>") not in other["input_ids"]


def test_a_tokenizer_that_is_taken_as_it_is_gets_no_token(tmp_path: Path) -> None:
    """A pretrained model has no embedding to spare."""
    known = train_tokenizer(["What? It is red"], 280, 1)
    known.save(str(tmp_path / "tokenizer.json"))
    picture = Medium("image", pictures()["rgb.png"][0], "a")
    source = Documents(Document("one", f"What?{MARK} It <|image|> is{MARK} red", media=(picture, picture)))
    data = MediaData(
        WithMedia(source, ENCODERS, tokenizer=str(tmp_path)),
        encoders=ENCODERS,
        batch_size=1,
        limit=1.0,
        val_fraction=0.0,
        tokenizer=TokenizerChoice(path=str(tmp_path)),
        prepared=str(tmp_path / "prepared"),
    )
    data.connect(vocab_size=known.get_vocab_size(), context=64, seed=0)
    assert data.tokenizer.get_vocab_size() == known.get_vocab_size()
    row, outputs = data.train_set[0], plan("image", ENCODERS["image"]).outputs
    seen = row["image_at"] >= 0
    assert row["image_at"][seen].tolist() == list(range(2 * outputs))
    assert (row["labels"][seen] == NO_LABEL).all() and set(row["input_ids"][seen].tolist()) == {0}
    said_back = data.tokenizer.decode(row["labels"][row["labels"] >= 0].tolist(), skip_special_tokens=False)
    assert said_back == "What? It <|image|> is red<|endoftext|>"


@settings(max_examples=15)
@given(
    plan_of=st.lists(st.lists(st.sampled_from(["image", "audio", "text"]), max_size=10), min_size=1, max_size=12),
    context=st.integers(16, 90),
    slots=st.integers(1, 12),
    stack=st.sampled_from([1, 2, 5, 10]),
    patch=st.sampled_from([8, 16, 32]),
    packing=st.sampled_from([True, False, "document"]),
    seconds=st.lists(st.floats(0.05, 1.0), min_size=120, max_size=120),
)
def test_each_place_has_the_outputs_of_its_own_medium(
    plan_of: list[list[str]],
    context: int,
    slots: int,
    stack: int,
    patch: int,
    packing: Any,
    seconds: list[float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any documents, context, slots, patch and stack: media longer than a row, ten in a document, none at all."""
    image = {**ENCODERS["image"], "config": {**ENCODERS["image"]["config"], "patch_size": patch}, "slots": slots}
    encoders = {"image": image, "audio": {**ENCODERS["audio"], "stack": stack, "slots": slots}}
    lengths = iter(seconds)
    documents, shade, known = [], 0, []
    for number, parts in enumerate(plan_of):
        text, media, mine = "", [], []
        for part in parts:
            shade += 1
            if part == "image":
                media.append(
                    Medium(
                        "image", saved(Image.new("RGB", (32, 32), (shade % 256, shade // 256, 0)), "PNG"), str(shade)
                    )
                )
            elif part == "audio":
                samples = tone(16_000, seconds=next(lengths)) * (shade / 300)
                media.append(Medium("audio", recorded("WAV", samples, 16_000), str(shade)))
            text += MARK if part != "text" else f"word {number} "
            mine += [part] if part != "text" else []
        documents.append(Document(str(number), text, media=tuple(media)))
        known.append(mine)
    source = Documents(*documents)
    source.on_bad = "skip"  # documents that no row can hold
    folder = tmp_path_factory.mktemp("rows")
    try:
        data = made(source, folder, encoders=encoders, context=context, packing=packing, limit=1.0)
    except UserError as error:
        assert "fewer than one batch" in str(error)  # none fits into a row
        return
    rows, told = data.train_set, processors(encoders)
    media_of = {
        number: {kind: [m for m in d.media if m.kind == kind] for kind in told} for number, d in enumerate(documents)
    }
    seen = 0
    for index in range(len(rows)):
        row = rows[index]
        mine = rows.kept[rows.borders[index] : rows.borders[index + 1]].tolist()
        seen += len(mine)
        for kind, own in data.slots.items():
            at, place = row[f"{kind}_at"], row["input_ids"] == data.tokenizer.token_to_id(f"<|{kind}|>")
            assert ((at >= 0) == place).all()
            assert (row["labels"][place] == NO_LABEL).all()
            wanted = [medium for number in mine for medium in media_of[number][kind]]
            heard = [told[kind](medium.data) for medium in wanted]
            expected = [
                slot * own.outputs + output
                for slot, (_, part, _) in enumerate(heard)
                for output in range(-(-part * own.outputs // told[kind].whole))
            ]
            assert at[place].tolist() == expected
            for slot, (stored, _, _) in enumerate(heard):
                np.testing.assert_array_equal(row[kind][slot].numpy(), told[kind].restored(stored))
            assert not row[kind][len(heard) :].any()
    assert seen + len(rows.left_out) == len(documents)


def test_a_document_that_no_row_can_hold_is_refused_with_its_size_or_left_out(tmp_path: Path) -> None:
    source = Colours(6)
    with pytest.raises(
        UserError, match=r"6 of 6 documents do not fit into a row: picture \d+ needs \d+ of 5 tokens and 1"
    ):
        made(source, tmp_path, encoders={"image": ENCODERS["image"]}, context=5)
    five = Document("five", MARK * 5, media=(Medium("image", pictures()["rgb.png"][0], "a"),) * 5)
    with pytest.raises(UserError, match=r"five needs 21 of 64 tokens and 5 of 4 image slots"):
        made(Documents(five), tmp_path, encoders={"image": ENCODERS["image"]})


def test_an_encoder_without_media_and_media_without_an_encoder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The data have sounds, and no encoder takes it.*encoders=audio"):
        WithMedia(Notes(3), None).check()
    with pytest.raises(UserError, match=r"There is an encoder of sounds.*~encoders.audio"):
        WithMedia(Colours(3), ENCODERS).check()
    WithMedia(Both(3), ENCODERS).check()
    with pytest.raises(UserError, match=r"There is an encoder of pictures"):
        made(Documents(Document("a", "text")), tmp_path)


def test_a_processor_of_another_shape_than_the_encoders_is_a_sentence() -> None:
    square = {"_target_": "transformers.SiglipImageProcessorPil", "size": {"height": 48, "width": 48}}
    with pytest.raises(UserError, match=r"makes pictures of 48x48, and the encoder sees 32x32"):
        processors({"image": {**ENCODERS["image"], "processor": square}})
    bins = {"_target_": "transformers.WhisperFeatureExtractor", "feature_size": 128}
    with pytest.raises(UserError, match=r"makes 128 mel bins, and the encoder hears 80.*num_mel_bins=128"):
        processors({"audio": {**ENCODERS["audio"], "processor": bins}})
    with pytest.raises(UserError, match=r"encoders.image.processor cannot be built"):
        processors({"image": {**ENCODERS["image"], "processor": {"_target_": "transformers.Nothing"}}})


def test_black_pictures_and_silence_are_finite(tmp_path: Path) -> None:
    silent = recorded("WAV", np.zeros((16_000, 1), np.float32), 16_000)
    black = saved(Image.new("RGB", (32, 32)), "PNG")
    media = Medium("image", black, "black"), Medium("audio", silent, "silence")
    row = made(Documents(Document("dark", MARK * 2 + "nothing", media=media)), tmp_path).train_set[0]
    assert torch.isfinite(row["audio"]).all() and row["audio"][0].unique().numel() == 1
    assert not row["image"].any()


def test_another_slot_stack_or_context_is_another_plan_for_the_cursor_and_prepares_nothing(tmp_path: Path) -> None:
    short = Document("short", MARK + "a tone", media=(Medium("audio", sounds()["16000 2.wav"][0], "a"),))

    def described(encoders: Any = ENCODERS, **arguments: Any) -> Any:
        data = made(Documents(*Colours(4).documents(), short), tmp_path, encoders=encoders, **arguments)
        return data.described["fingerprint"], data.prepared.folder

    first, folder = described()
    fewer = {**ENCODERS, "image": {**ENCODERS["image"], "slots": 1}}
    coarser = {**ENCODERS, "audio": {**ENCODERS["audio"], "stack": 10}}
    others = [described(fewer), described(coarser), described(context=80), described(packing=False)]
    assert len({first, *(fingerprint for fingerprint, _ in others)}) == 5
    assert {path for _, path in others} == {folder}
    assert described() == (first, folder)
    longer = {**ENCODERS, "audio": {**ENCODERS["audio"], "seconds": 2}}
    assert described(longer)[1] != folder  # other frames


def test_the_hubs_tables_are_read_without_its_decoders(tmp_path: Path) -> None:
    """As the hub has them on disk: struct<bytes, path> and the features in the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "photo": {"_type": "Image"},
        "clips": {"feature": {"_type": "Audio"}, "_type": "List"},
    }
    schema = pa.schema([("text", pa.string()), ("photo", raw), ("clips", pa.list_(raw))]).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    png, wav = pictures()["rgb.png"][0], sounds()["16000 2.wav"][0]
    rows = [
        {"text": "one", "photo": {"bytes": png, "path": "a.png"}, "clips": [{"bytes": wav, "path": None}] * 2},
        {"text": "two", "photo": None, "clips": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "train.parquet")
    source = WithMedia(HfSource(str(tmp_path / "train.parquet")), ENCODERS)
    source.check()
    first, second = source.documents()
    assert (first.text, [medium.kind for medium in first.media]) == (MARK * 3 + "one", ["image", "audio", "audio"])
    assert [medium.data for medium in first.media] == [png, wav, wav]
    assert (second.text, second.media) == ("two", ())
    assert [each.media for each in HfSource(str(tmp_path / "train.parquet")).documents()] == [(), ()]


def test_conversations_have_their_media_in_every_published_form(tmp_path: Path) -> None:
    png, wav = pictures()["rgb.png"][0], sounds()["16000 2.wav"][0]
    (tmp_path / "a.png").write_bytes(png)
    uri, sound = (base64.b64encode(content).decode() for content in (png, wav))
    asked = [
        {"type": "text", "text": "What is "},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{uri}"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "a.png"}},
    ]
    turns = [{"type": "image"}, {"type": "text", "text": f"a {MARK} b <image>"}]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "It is red."}]},
        {
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat? <audio>"},
                {"from": "gpt", "value": "It is red."},
            ],
        },
        {
            "images": ["a.png"],
            "messages": [{"role": "user", "content": turns}, {"role": "assistant", "content": "It is red."}],
        },
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps(rows), encoding="utf-8")
    for name in ("c.jsonl", "c.json"):
        source = WithMedia(ChatSource(str(tmp_path / name)), ENCODERS)
        source.check()
        first, second, third = source.documents()
        assert [medium.data for medium in first.media] == [png, wav, png]
        assert f"What is {MARK * 3}" in first.text
        assert f"{MARK}\nWhat? <audio>" in second.text  # beside which there is no sound
        assert f"{MARK}a \ufffd b <image>" in third.text
        for document in (first, second, third):
            assert document.text.count(MARK) == len(document.media)
            spans = [document.text[slice(*span)] for span in document.loss_spans or ()]
            assert "It is red." in "".join(spans) and MARK not in "".join(spans)


@pytest.mark.parametrize(
    "row, why",
    [
        ({"image": "a.png", "conversations": [{"from": "human", "value": "no place"}]}, "more in 'images' than places"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a place for a image that is nowhere"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "type 'video'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]},
         "nothing is fetched from a network"),
    ],
)  # fmt: skip
def test_a_conversation_that_lacks_a_medium_is_named(row: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures()["rgb.png"][0])
    (tmp_path / "c.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=why):
        list(WithMedia(ChatSource(str(tmp_path / "c.jsonl")), ENCODERS).documents())


def test_what_is_in_memory_does_not_grow_with_the_documents(tmp_path: Path) -> None:
    config = {**ENCODERS["image"]["config"], "image_size": 224}
    encoders = {"image": {**ENCODERS["image"], "config": config, "stack": 49}}

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            made(Colours(count), tmp_path / str(count), encoders=encoders, packing=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # the libraries
    assert peak(200) < 1.3 * peak(50)  # 30 MB of pixels, and 7.5


def test_text_alone_is_prepared_as_before(corpus: Path, tmp_path: Path) -> None:
    """The same tokens under the same name as without a word about media."""
    from lm.data.prepare import Recipe, prepare

    text = prepare(TextSource(str(corpus)), Recipe(300, 0.2, 0), tmp_path)
    assert not list(text.folder.glob("*.documents.jsonl"))
    assert "rows" not in text.meta


def test_sound_without_the_extra_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    assert decode.sound(sounds()["16000 2.wav"][0])[1] == 16_000  # WAV of 16 bits needs nothing
    with pytest.raises(UserError, match=r"soundfile.*pip install -e '\.\[media\]'"):
        decode.sound(sounds()["16000 1.flac"][0])


def test_both_readers_of_wav_give_the_same_samples(tmp_path: Path) -> None:
    content = recorded("WAV", tone(16_000, 2), 16_000, "PCM_16")
    (tmp_path / "a.wav").write_bytes(content)
    found, _ = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    np.testing.assert_array_equal(decode.sound(content)[0], found.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("toy", [Colours, Notes])
def test_the_toys_are_the_same_each_time_and_their_answers_are_uniform(toy: Callable[[int], Any]) -> None:
    once, again = list(toy(40).documents()), list(toy(40).documents())
    assert once == again
    assert len({document.media[0].data for document in once}) == 40
    words = [word for document in once for word in document.text[1:].replace("high do", "high-do").split()]
    assert len(words) == 160 and len(set(words)) == (6 if toy is Colours else 8)
