"""What a hub has, as a folder on this machine: fetched once, and found without a network ever after."""

import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from harness.errors import UserError

log = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
PICKLES = "pytorch_model*"  # weights in a format that can run code
REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def snapshot(
    name: str,
    *,
    files: Sequence[str],
    whole: Callable[[Path], bool],
    key: str,
    revision: str | None = None,
) -> Path:
    """Return the folder `name`, or the one where the `files` (patterns) of the repository `name` lie.

    No socket is opened where `whole(folder)` says that nothing is missing. `key` is what the user typed the name for.
    Raises UserError, with the command that fetches the files where there is a network.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"There is no folder {name}, which {key} names.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as NoSuchRevision

    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(files), local_files_only=True))
        if whole(found):
            return found
    except LocalEntryNotFoundError:
        pass
    wanted = f"{name}{f' in revision {revision}' if revision else ''}"
    try:
        log.info("Fetching %s from the hub", wanted)
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except GatedRepoError as error:
        raise UserError(f"{wanted} is not free to read.", cure="Ask for it on its page, then: hf auth login") from error
    except (RepositoryNotFoundError, NoSuchRevision) as error:
        raise UserError(
            f"There is neither a folder {name} here nor {wanted} on the hub.", cure=f"See {key}."
        ) from error
    except (OSError, LocalEntryNotFoundError) as error:  # no network, or HF_HUB_OFFLINE
        from huggingface_hub.constants import HF_HUB_CACHE

        fetch = f"hf download {name}{f' --revision {revision}' if revision else ''}"
        raise UserError(
            f"{wanted} is not whole on this machine, and the hub cannot be reached.",
            cure=f"On a machine that has a network, type {fetch}, and copy models--{name.replace('/', '--')} from its "
            f"cache into {HF_HUB_CACHE} here; or name a folder with {key}=PATH.",
        ) from error


def found_file(
    path: str, names: Sequence[str], *, files: Sequence[str], key: str, cure: str, revision: str | None = None
) -> Path:
    """Return where a file lies: `path` itself, or the first of `names` that the folder or repository `path` has. Raises
    UserError, with `cure`, where there is none."""
    file = Path(path).expanduser()
    if not file.is_file() and file.suffix != Path(names[0]).suffix:

        def has_one(folder: Path) -> bool:
            return any((folder / name).is_file() for name in names)

        folder = snapshot(path, files=files, whole=has_one, key=key, revision=revision)
        file = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    if not file.is_file():
        raise UserError(f"There is no {names[0]} at {key}={path} (looked for {file}).", cure=cure)
    return file


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a model's folder: one, or as many as its index names. They need not be there."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    return [folder / "model.safetensors"]


def has_weights(folder: Path, *, pickles: bool = False) -> bool:
    """Say whether a model's folder is whole: a config and every file of weights, as safetensors or as `pickles`."""
    files = weight_files(folder)
    found = all(file.is_file() for file in files) or (pickles and any(folder.glob(PICKLES)))
    return found and (folder / "config.json").is_file()


def refuse_without_safetensors(folder: Path, name: str, *, key: str) -> None:
    """Raise UserError where a file of weights is not there; `key` is what allows another format."""
    absent = [file.name for file in weight_files(folder) if not file.is_file()]
    if not absent:
        return
    if found := sorted(file.name for file in folder.glob(PICKLES)):
        has, cure = f" It has {found[0]}, which may run code when it is read.", f"If you trust its maker: {key}=false."
    else:
        has, cure = "", f"Fetch it again where there is a network: hf download {name}"
    raise UserError(f"{folder} has no {absent[0]}.{has}", cure=cure)


def weights_checksum(folder: Path) -> str:
    """Return 8 hex digits that tell the weights in a folder from others, at the speed of reading them."""
    files = [file for file in weight_files(folder) if file.is_file()] or sorted(folder.glob(PICKLES))
    value = 0
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                value = zlib.crc32(block, value)
    return f"{value:08x}"


@contextmanager
def readable(name: str, key: str) -> Iterator[None]:
    """Turn what a library raises for the folder or the repository `name`, which `key` names, into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{name} needs Python files of its own, which lie beside its weights and would run here.",
                cure=f"If you have read and trust them: {key.partition('.')[0]}.trust_remote_code=true.",
            ) from error
        raise UserError(f"{key}={name} cannot be loaded: {reason}") from error


def upload(folder: Path, name: str) -> None:
    """Put a folder on the hub as `name`, privately where there is none of that name yet."""
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(folder_path=folder, repo_id=name)
    except Exception as error:  # its HTTP library is another one in another version, with errors of its own
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder} is written, and not pushed: {why}", cure=f"hf upload {name} {folder}") from error
