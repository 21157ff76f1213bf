"""The states of all files that a model is made of: whether others have taken their place since it was loaded."""

import os
from collections.abc import Mapping
from pathlib import Path

from storage.spec.file_state import FileState, file_state
from storage.spec.model_files import named_folder
from storage.spec.models import DiffusersModel, Model, Weights
from storage.spec.safetensors_header import read_header

#: Of a folder in Diffusers layout, what is read: weights, configurations, vocabularies.
_READ = (".safetensors", ".json", ".txt", ".model")

#: Of a model's files, by their paths.
FileStates = Mapping[str, FileState]


def file_states(model: Model) -> FileStates:
    """Return the states of all files of this machine that a model is made of.

    None of repositories of the hub, whose files never change; none of what is not there at the moment.
    """
    return {str(path): state for path, state in named_states(model).values()}


def named_states(model: Model) -> Mapping[str, tuple[Path, FileState]]:
    """Return the same files and states by names that are the same on every machine: the part, and the path within."""
    if not isinstance(model, DiffusersModel):
        return {}
    found: dict[str, tuple[Path, FileState]] = {}
    for number, part in enumerate(model.parts):
        for kind, weights in (("part", part), ("config", part.config and Weights(source=part.config))):
            if weights and (root := named_folder(weights)) is not None:
                for path, state in _states_at(root).items():
                    found[f"{kind} {number} {path.relative_to(root)}"] = path, state
    return found


def are_replaced(before: FileStates, now: FileStates) -> bool:
    """Tell whether files are others. What is gone is not replaced: what was read of it is as good as ever."""
    return any(before.get(path) != state for path, state in now.items())


def agree(some: Mapping[str, object], others: Mapping[str, object]) -> bool:
    """Tell whether files that are among both are the same, by their states or by their marks."""
    return all(some[path] == others[path] for path in some.keys() & others.keys())


def are_whole(states: FileStates) -> bool:
    """Tell whether all safetensors files are as long as their headers say: nobody is just writing them."""
    for path in states:
        if path.endswith(".safetensors"):
            try:
                read_header(Path(path))
            except (OSError, ValueError):
                return False
    return True


def _states_at(path: Path) -> dict[Path, FileState]:
    """Return the states of a file, or of what is read of a folder and of the folders in it."""
    try:
        if path.is_file():
            return {path: file_state(path)}
        inside = [path, *(Path(entry.path) for entry in os.scandir(path) if entry.is_dir())]
        files = [Path(entry.path) for folder in inside for entry in os.scandir(folder) if entry.name.endswith(_READ)]
        return {file: file_state(file) for file in files}
    except OSError:
        # Gone at this moment: a folder that is just being replaced, or a disk that is away.
        return {}
