"""From the name of a model to a folder on disk: `demo`, a path, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from .. import env
from ..errors import CheckpointError, ExtraMissing, LoadError

CONFIG_FILES = ("*.json",)
# tokenizers that come as *.model, *.tiktoken or *.txt; templates as *.jinja; adapters and weights as *.safetensors
FILES = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja")
CODE_FILES = ("*.py",)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?")


def resolve(
    name: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    config_only: bool = False,
    with_code: bool = False,
) -> Path:
    """The folder of a checkpoint; a hub repository is downloaded unless it is in the cache.

    Args:
        name: `demo`, a folder, or a repository id such as `Qwen/Qwen2-VL-2B-Instruct`.
        revision: branch, tag or commit of a repository.
        offline: never ask the hub; None: as HF_HUB_OFFLINE says.
        config_only: leave the weights where they are.
        with_code: fetch the repository's Python files too.

    Raises:
        ExtraMissing: `demo` without vlm-demo.
        CheckpointError: neither folder nor repository, or a folder without config.json.
        LoadError: the hub cannot be reached, or does not have what is asked for.
    """
    if str(name) == "demo" and not Path("demo").is_dir():
        folder = _demo()
    elif Path(name).expanduser().exists():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"{name}: expected a checkpoint folder, got a file; name the folder that holds it")
    elif _looks_local(str(name)):
        raise CheckpointError(f"{name}: no such folder; give a checkpoint folder, a hub repository id, or demo")
    else:
        patterns = [*(CONFIG_FILES if config_only else FILES), *(CODE_FILES if with_code else ())]
        folder = _download(str(name), revision, env.is_offline() if offline is None else offline, patterns)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: expected config.json in a checkpoint folder, found none")
    return folder


def _demo() -> Path:
    try:
        import vlm_demo  # an optional distribution
    except ModuleNotFoundError:
        raise ExtraMissing("demo: the embedded model is not installed; install vlm-demo") from None
    return Path(vlm_demo.path())


def _looks_local(name: str) -> bool:
    return name.startswith((".", "~", "/", "\\")) or not _REPOSITORY.fullmatch(name) or ".." in name


def _download(name: str, revision: str | None, offline: bool, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # 0.24 s, paid only for repositories
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=offline, allow_patterns=patterns))
    except GatedRepoError:
        raise LoadError(
            f"{name}: the repository is gated; accept its terms on the hub and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise LoadError(f"{name}: neither a folder here nor a repository on the hub; check the name") from None
    except RevisionNotFoundError:
        raise LoadError(f"{name}: the repository has no revision {revision!r}") from None
    except LocalEntryNotFoundError:
        why = "the hub may not be asked (offline)" if offline else "the hub cannot be reached"
        raise LoadError(f"{name}: not a folder, not in the local cache, and {why}; download it first") from None
    except (EntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LoadError(f"{name}: cannot be downloaded: {reason}") from None


def cached_models() -> list[tuple[str, int]]:
    """Names and sizes in bytes of the checkpoints on this machine: the demo model and the hub's cache."""
    found = []
    try:
        folder = _demo()
        found.append(("demo", sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())))
    except ExtraMissing:
        pass  # it is optional, and its absence is what the list then shows
    from huggingface_hub import scan_cache_dir  # slow to import
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return found
    return found + sorted((repo.repo_id, repo.size_on_disk) for repo in repos if repo.repo_type == "model")


resolve_checkpoint = resolve  # its name at the package root
