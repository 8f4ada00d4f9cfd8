"""Publish a checkpoint folder to a hub repo."""

from __future__ import annotations

from pathlib import Path

from .errors import ConvertError


def upload(folder: Path, repo_id: str) -> None:
    """Create the repo where it is not there and upload the folder. Raises ConvertError."""
    from huggingface_hub import HfApi  # slow to import, and only needed here
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder))
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConvertError(f"upload to {repo_id} failed ({first}); the result is in {folder}") from None
