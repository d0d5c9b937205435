"""Whether published weights can be had: they are on this machine, or the hub gives them."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from xmas.models.sources import Source

_SECONDS = 20  # until a hub that does not answer counts as out of reach


@runtime_checkable
class NeedsWeights(Protocol):
    """A stage that is made of published weights."""

    def sources(self) -> dict[str, Source]:
        """The weights, by the field of the stage that names them."""
        ...


def local_folder(source: Source) -> Path | None:
    """The folder of a source, or that of its file; None if it would be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    path = Path(source.name).expanduser()
    if path.exists():
        return path if path.is_dir() else path.parent
    try:
        return Path(snapshot_download(source.name, revision=source.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def why_absent(source: Source) -> str | None:
    """Why the weights of a source cannot be had now; None if they can."""
    if local_folder(source) is not None:
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]: of the client that it comes with
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        HfApi().model_info(source.name, revision=source.revision, timeout=_SECONDS)
    except ValueError:  # HFValidationError: the name has the form of a path
        return "there is no such folder, and this is no name of the hub"
    except OfflineModeIsEnabled:
        return "the hub is switched off (HF_HUB_OFFLINE)"
    except RepositoryNotFoundError:
        return "the hub has no model of this name that you may read"
    except (HTTPError, OSError) as error:
        return f"the hub does not give them ({type(error).__name__})"
    return None
