"""A data set of the Hugging Face hub as a folder on this machine: fetched once, found without a network ever after."""

import logging
import re
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError

log = logging.getLogger(__name__)

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # without an owner it could as well be a folder that is not there
WHOLE = ".whole-"  # beside the snapshots: this one was fetched to its end


def is_name(path: str) -> bool:
    """Say whether a path that is nothing on this disk may be the name of a data set."""
    return NAME.fullmatch(path) is not None


def data_set(name: str, revision: str | None = None) -> Path:
    """Return the folder of a data set, which is called as its commit is. No socket is opened for one that was fetched
    whole. Raises UserError, with the command that fetches it where there is a network."""
    from huggingface_hub import constants, snapshot_download  # takes a second, and `check` is asked before that
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    found: Path | None = None
    with suppress(LocalEntryNotFoundError):
        found = Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    if found is not None and _mark(found).is_file():
        return found
    try:
        if not constants.HF_HUB_OFFLINE:
            log.info("Fetching the data set %s from the hub", name)
            folder = Path(snapshot_download(name, repo_type="dataset", revision=revision))
            _mark(folder).touch()
            return folder
    except GatedRepoError as error:
        raise UserError(f"{name} is not free to read.", cure="Ask for it on its page, then: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"There is neither a file {name} here nor a data set of that name on the hub.") from error
    except (OSError, LocalEntryNotFoundError) as error:
        log.info("The hub cannot be reached: %s", next(iter(str(error).splitlines()), type(error).__name__))
    if found is not None and not list(found.parents[1].glob("blobs/*.incomplete")):
        log.warning("%s is taken as it lies in %s: the hub cannot be asked whether it is whole.", name, found)
        return found
    fetch = f"hf download --repo-type dataset {name}{f' --revision {revision}' if revision else ''}"
    folder_name = f"datasets--{name.replace('/', '--')}"
    raise UserError(
        f"The data set {name} is not {'whole ' if found else ''}on this machine, and the hub cannot be reached.",
        cure=f"On a machine that has a network, type {fetch}, and copy {folder_name} from its cache into "
        f"{constants.HF_HUB_CACHE} here.",
    )


def _mark(snapshot: Path) -> Path:
    return snapshot.parents[1] / f"{WHOLE}{snapshot.name}"
