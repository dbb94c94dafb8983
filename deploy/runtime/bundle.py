"""A model on disk: a folder with ``model.onnx``, ``bundle.json``, ``report.md`` and maybe ``weights.safetensors``.

Writing, reading and verifying such folders belongs here; running the model is ``deploy.runtime.session``.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import msgspec

FORMAT = 1
MODEL_FILE = "model.onnx"
META_FILE = "bundle.json"
REPORT_FILE = "report.md"
WEIGHTS_FILE = "weights.safetensors"
META_BYTES_MAX = 4 << 20

Kind = Literal["detector", "forecaster", "policy"]


class BundleError(ValueError):
    """A bundle that is missing, damaged, of another kind, or made for something else; names file, key, expectation."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of the graph. A dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    meaning: str = ""


class BundleMeta(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything the network needs to be used rightly; what only one kind of model has is in ``extra``.

    By convention ``extra`` holds, for a detector: ``camera`` (width, height and what else it assumes) and
    ``score_threshold``; for a forecaster: ``history_steps``, ``history_step_s``, ``step_s``, ``horizon_steps`` and
    ``futures``; for a policy: ``observation_hash``, ``observation_names`` and ``action_limits``.
    """

    format: int = FORMAT
    kind: Kind
    task: str
    version: str = "1"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...] = ()
    training: dict[str, Any] = {}  # data, seeds, settings
    code_revision: str = ""
    metrics: dict[str, Any] = {}  # name -> value, or {mean, low, high, n}
    parity: dict[str, Any] = {}  # what deploy.export.parity measured
    extra: dict[str, Any] = {}
    sha256: dict[str, str] = {}  # file name -> hash, filled by write_bundle


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A verified bundle."""

    path: Path
    meta: BundleMeta

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    @property
    def weights_path(self) -> Path | None:
        """The trainable weights, where the bundle has them."""
        path = self.path / WEIGHTS_FILE
        return path if WEIGHTS_FILE in self.meta.sha256 else None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def digest(self) -> str:
        """Hash of the hashes of all files but ``bundle.json``: names the model in scores and reports."""
        text = "".join(f"{name}:{value};" for name, value in sorted(self.meta.sha256.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def get_extra(self, key: str, kind: type | tuple[type, ...] = object) -> Any:
        """Value of ``extra[key]``. Raises BundleError that names file and key when it is missing or of another type."""
        if key not in self.meta.extra:
            raise BundleError(f"{self.path / META_FILE}: extra.{key}: missing")
        value = self.meta.extra[key]
        if not isinstance(value, kind):
            raise BundleError(f"{self.path / META_FILE}: extra.{key}: expected {kind}, got {value!r}")
        return value


def find_bundle(name: str | Path) -> Path:
    """Folder of a bundle given by path, or by its name among the shipped ones (with or without ``models/`` in front).

    Raises BundleError with the shipped names when there is no such folder.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    shipped = _shipped_folder()
    parts = path.parts[1:] if path.parts[:1] == ("models",) else path.parts
    if shipped is not None and len(parts) == 1 and (shipped / parts[0]).is_dir():
        return shipped / parts[0]
    names = sorted(p.parent.name for p in shipped.glob(f"*/{META_FILE}")) if shipped else []
    raise BundleError(
        f"{name}: no such bundle; expected a folder with {META_FILE} or one of: {', '.join(names) or 'none'}"
    )


def load_bundle(path: str | Path, kind: Kind | None = None) -> Bundle:
    """Read ``bundle.json``, check the kind and the SHA-256 of every file.

    ``path`` is a folder or the name of a shipped bundle. Raises BundleError that names the file, the key and what was
    expected.
    """
    folder = find_bundle(path)
    meta_path = folder / META_FILE
    try:
        with _open_regular(meta_path) as file:
            data = file.read(META_BYTES_MAX + 1)
    except OSError as error:
        raise BundleError(f"{meta_path}: cannot be read ({error.strerror}); expected a bundle") from error
    if len(data) > META_BYTES_MAX:
        raise BundleError(f"{meta_path}: expected at most {META_BYTES_MAX} bytes, got more")
    try:
        meta = msgspec.json.decode(data, type=BundleMeta)
    except (ValueError, RecursionError) as error:  # ValidationError, what is no text, what is nested too deep
        raise BundleError(f"{meta_path}: not a bundle description: {error}") from error
    if meta.format != FORMAT:
        raise BundleError(f"{meta_path}: format: expected {FORMAT}, got {meta.format}")
    if kind is not None and meta.kind != kind:
        raise BundleError(f"{meta_path}: kind: expected '{kind}', got '{meta.kind}'")
    if MODEL_FILE not in meta.sha256:
        raise BundleError(f"{meta_path}: sha256: expected a hash of {MODEL_FILE}, got those of {sorted(meta.sha256)}")
    for name, expected in meta.sha256.items():
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise BundleError(f"{meta_path}: sha256: expected file names of this folder, got {name!r}")
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise BundleError(f"{folder / name}: cannot be read ({error.strerror}); the bundle lists it") from error
        if found != expected:
            raise BundleError(f"{folder / name}: sha256: expected {expected}, got {found}: the file was changed")
    return Bundle(path=folder, meta=meta)


def check_place(path: Path, option: str = "") -> None:
    """Raise BundleError, which ``option`` begins, where no bundle can be written: over other files, or below a file."""
    if path.exists() and not (path / META_FILE).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise BundleError(f"{option}{path}: exists and is no bundle; expected a new folder or one to replace")
    above = next((parent for parent in path.parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise BundleError(f"{option}{path}: {above} is a file; expected a folder")


def write_bundle(
    path: str | Path, *, model: bytes, meta: BundleMeta, report: str, weights: str | Path | None = None
) -> Bundle:
    """Write a bundle folder, replacing one that is there, and return it as loaded.

    ``model`` is the serialised ONNX graph (one file, no external data), ``report`` the Markdown account of the training
    that made it, ``weights`` a safetensors file to copy in. The folder appears whole or not at all.
    """
    path = Path(path)
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (folder / MODEL_FILE).write_bytes(model)
        (folder / REPORT_FILE).write_text(report)
        if weights is not None:
            shutil.copyfile(weights, folder / WEIGHTS_FILE)
        hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        meta = msgspec.structs.replace(meta, format=FORMAT, sha256=hashes)
        (folder / META_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(meta), indent=2) + b"\n")
        folder.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    finally:
        if folder.exists():
            shutil.rmtree(folder)
    return load_bundle(path, kind=meta.kind)


def _shipped_folder() -> Path | None:
    spec = importlib.util.find_spec("visuomotor.models")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _open_regular(path: Path) -> BufferedReader:
    """The file, opened; OSError for a pipe or a device, which may have no end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


def _sha256(path: Path) -> str:
    with _open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
