"""What the fuzzer writes into files and command lines: profiles, calibrations, labels, bundles, scores, graphs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import yaml
from fuzz_mutation import (
    DEPTHS,
    NUMBERS,
    TEXTS,
    mutate_bytes,
    mutate_lines,
    mutate_tree,
    paths_of,
    pick,
    splice,
    to_json,
)

from visuomotor.deploy.export import detector_labels, foreign_onnx
from visuomotor.deploy.runtime import bundle
from visuomotor.launch import inject, profile, seeds
from visuomotor.launch.evaluate import score, suite
from visuomotor.messages import camera, yaml_file
from visuomotor.messages.tasks import get_task

BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    + "".join(
        f"{k}: &{k} [{', '.join(f'*{j}' for _ in range(9))}]\n" for j, k in zip("bcdefgh", "cdefghi", strict=True)
    ),
    "a: &a {x: 1}\nb: &b {<<: [*a, *a, *a]}\nc: &c {<<: [*b, *b, *b]}\ntask: *c\n",
    "cameras: &a {camera_front: *a}\n",
    "&a [*a]\n",
    "task: 2001-99-99\n",
    "task: !!timestamp x\n",
    "task: !!int ''\n",
    "task: !!bool x\n",
    "threads: 0x" + "f" * 30_000 + "\n",
    "threads: " + "9" * 30_000 + "\n",
    "threads: " + ":".join(["59"] * 9000) + "\n",
    "? {a: 1}\n: 1\n",
    "!!python/object/apply:os.system [true]\n",
    "task: .nan\nthreads: .inf\n",
    "%YAML 9.9\n---\n",
    "--- a\n--- b\n",
    '"\\ud800": 1\n',
    "a: |\n" + " x\n" * 40_000,
    "[" * 20_000,
    "- " * 5000 + "a\n",
    "{a: " * 3000,
    "x" * 300_000,
)


class RefusedError(ValueError):
    """What a target raises when the reader refused an input with an error of its own that names the file."""


class _OfFile:
    """A reader of one file."""

    refusals: tuple[type[Exception], ...] = (RefusedError,)
    memory_mb = 192
    suffix = ""

    def __init__(self, rng: np.random.Generator) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.path = Path(self._folder.name) / f"hostile{self.suffix}"

    def read(self, data: bytes) -> bool:
        self.path.write_bytes(data)
        try:
            self.load(self.path)
        except ValueError as error:
            if type(error) is not ValueError and not type(error).__module__.startswith("visuomotor."):
                raise AssertionError(f"not an error of ours: {type(error).__name__}: {error}") from error
            if not re.match(r"'?/\S+: ", str(error)):
                raise AssertionError(f"does not name the file: {error}") from error
            raise RefusedError(str(error)) from error
        return True

    def load(self, path: Path) -> None:
        raise NotImplementedError

    def is_past_header(self, message: str) -> bool:
        """Whether a refusal is of the contents and not of the form of the file."""
        return not any(text in message for text in ("not valid YAML", "bytes that are none", "expected at most"))

    def close(self) -> None:
        self._folder.cleanup()


class _OfYaml(_OfFile):
    suffix = ".yaml"
    files: tuple[Path, ...] = ()

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._texts = [file.read_text() for file in self.files]
        self._trees = [
            self.prepare(yaml.safe_load(text), file) for text, file in zip(self._texts, self.files, strict=True)
        ]
        self._paths = [paths_of(tree) for tree in self._trees]

    def prepare(self, tree: Any, file: Path) -> Any:
        return tree

    def make(self, rng: np.random.Generator) -> bytes:
        at, kind = int(rng.integers(len(self._texts))), int(rng.integers(20))
        text = self._texts[at]
        if kind == 0:
            return pick(rng, BOMBS).encode("utf-8", "surrogatepass")
        if kind == 1:
            return mutate_bytes(rng, text.encode())
        if kind == 2:
            return splice(rng, text.encode(), pick(rng, BOMBS).encode("utf-8", "surrogatepass"))
        if kind < 6:
            return mutate_lines(rng, text).encode("utf-8", "surrogatepass")
        tree = self._trees[at]
        for _ in range(int(rng.integers(0, 3))):
            tree = mutate_tree(rng, tree, paths_of(tree)) if isinstance(tree, dict) and tree else tree
        return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


class Profiles(_OfYaml):
    """Profiles of a run, with their calibrations."""

    name = "profile"
    share = 3_000
    readers = (profile.load_profile, profile._validate, profile.Profile._parts_fit, yaml_file.load_yaml)
    files = tuple(sorted(profile.PROFILES.glob("*.yaml")))

    def prepare(self, tree: Any, file: Path) -> Any:
        return tree | {"cameras": {name: str(file.parent / path) for name, path in tree["cameras"].items()}}

    def load(self, path: Path) -> None:
        profile.load_profile(path)


class Cameras(_OfYaml):
    """Calibrations."""

    name = "camera"
    share = 5_000
    readers = (camera.load_camera, yaml_file.load_yaml)
    files = tuple(sorted(profile.PROFILES.glob("*/camera_*.yaml")))

    def load(self, path: Path) -> None:
        found = camera.load_camera(path)
        if not all(np.isfinite([*found.matrix.ravel(), *found.ego_position_m, found.ego_yaw_rad])):
            raise AssertionError("accepted what is not finite")


class Labels(_OfFile):
    """Label files and mapping files of foreign detectors."""

    name = "labels"
    share = 6_000
    readers = (detector_labels.read_labels, detector_labels.read_map, detector_labels._read)
    labels = "car\nbus\ntruck\nperson\nbicycle\ndog\n"
    mapping = "bus: truck\ndog: null\nperson: pedestrian\n"

    def make(self, rng: np.random.Generator) -> bytes:
        if rng.integers(2):
            return b"L" + mutate_bytes(rng, mutate_lines(rng, self.labels).encode("utf-8", "surrogatepass"))
        if rng.integers(5) == 0:
            return b"M" + pick(rng, BOMBS).encode("utf-8", "surrogatepass")
        return b"M" + mutate_lines(rng, self.mapping).encode("utf-8", "surrogatepass")

    def load(self, path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[1:])
        if data[:1] == b"L":
            detector_labels.read_labels(path)
        else:
            detector_labels.read_map(path, get_task("drive"))


class Bundles(_OfFile):
    """Bundle folders: descriptions, hashes, missing and further files, links and pipes in place of files."""

    name = "bundle"
    share = 12_000
    readers = (bundle.load_bundle, bundle._sha256)
    targets = ("/dev/zero", "/dev/null", "/proc/self/environ", "..", ".", "model.onnx", "nowhere", "/etc/hostname")

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        spec = bundle.TensorSpec(name="x", dtype="float32", shape=("A", 3), unit="m", low=-1.0, high=1.0)
        meta = bundle.BundleMeta(
            kind="policy", task="drive", inputs=(spec,), outputs=(spec,), extra={"a": {"b": [1]}}, training={"seed": 7}
        )
        bundle.write_bundle(self.path, model=b"a graph", meta=meta, report="# How\n")
        self._tree = json.loads((self.path / bundle.META_FILE).read_text())
        self._paths = paths_of(self._tree)
        self._files = {name: (self.path / name).read_bytes() for name in ("model.onnx", "report.md")}

    def make(self, rng: np.random.Generator) -> bytes:
        tree, files = self._tree, [[name, "file", data] for name, data in self._files.items()]
        kind = int(rng.integers(12))
        if kind < 5:
            tree = mutate_tree(rng, tree, self._paths)
        elif kind < 8:  # a name that the description lists
            name = pick(rng, (*TEXTS, "model.onnx/", "./model.onnx", "\ud800", "x.txt", "x" * 255))
            listed = pick(rng, ("0" * 64, hashlib.sha256(b"").hexdigest(), 7, None))
            tree = tree | {"sha256": tree["sha256"] | {name: listed}}
        described = to_json(tree)
        if kind == 8:
            described = mutate_bytes(rng, described)
        elif kind == 9:
            depth = pick(rng, DEPTHS)
            deep = pick(rng, ("[", '{"a":')) * depth
            described = described.replace(b'"extra": {', b'"extra": {"deep": ' + deep.encode() + b"1, ")
        elif kind == 10:
            big = pick(rng, ("1e999", "9" * 5000, "-" + "9" * 400, "1e-999", "0." + "1" * 5000, "9" * 20))
            described = described.replace(b'"seed": 7', b'"seed": ' + big.encode())
        else:
            at = int(rng.integers(len(files)))
            files[at] = pick(
                rng,
                (
                    [files[at][0], "link", pick(rng, self.targets).encode()],
                    [files[at][0], "pipe", b""],
                    [files[at][0], "folder", b""],
                    [files[at][0], "file", mutate_bytes(rng, files[at][2])],
                    ["more.bin", "file", rng.bytes(9)],
                ),
            )
        meta: list[Any] = [bundle.META_FILE, "file", described]
        if rng.integers(60) == 0:
            meta = [bundle.META_FILE, pick(rng, ("link", "pipe", "folder")), pick(rng, self.targets).encode()]
        return msgspec.msgpack.encode([meta, *files])

    def read(self, data: bytes) -> bool:
        for file in self.path.iterdir():
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        for name, kind, content in msgspec.msgpack.decode(data, type=list[tuple[str, str, bytes]]):
            file = self.path / name
            if kind == "file":
                file.write_bytes(content)
            elif kind == "link":
                file.symlink_to(content.decode())
            elif kind == "pipe":
                os.mkfifo(file)
            else:
                file.mkdir()
        try:
            bundle.load_bundle(self.path)
        except bundle.BundleError as error:
            if "hostile" not in str(error):
                raise AssertionError(f"does not name the file: {error}") from error
            raise RefusedError(str(error)) from error
        return True

    def is_past_header(self, message: str) -> bool:
        return "not a bundle description" not in message or " - at " in message


class _OfJson(_OfFile):
    suffix = ".json"
    tree: Any = None

    def make(self, rng: np.random.Generator) -> bytes:
        kind = int(rng.integers(10))
        if kind == 0:
            return (pick(rng, ("[", '{"a":', '{"episodes": [', '{"provenance": ')) * pick(rng, DEPTHS)).encode()
        if kind == 1:
            return mutate_bytes(rng, to_json(self.tree))
        if kind == 2:
            return to_json(self.tree).replace(
                b"1.5", pick(rng, (b"1e999", b"9" * 5000, b"NaN", b"-", b"1e-999", b"Infinity"))
            )
        tree = mutate_tree(rng, self.tree, paths_of(self.tree))
        return to_json(tree)


class Scores(_OfJson):
    """``score.json``."""

    name = "score"
    share = 30_000
    readers = (score.load_score,)

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        rows = [{"seed": s, "success": True, "end": "goal", "duration_s": 1.5, "ticks": 9} for s in range(3)]
        result = score.Score(policy="idm", episodes=rows, latency_ms={"a": score.percentiles([1.0, 2.0])}).finish()
        self.tree = json.loads(msgspec.json.encode(result))

    def load(self, path: Path) -> None:
        score.load_score(path)

    def is_past_header(self, message: str) -> bool:
        return " - at " in message


class Progress(_OfJson):
    """Progress files of an evaluation: one row an episode."""

    name = "progress"
    share = 20_000
    readers = (suite._finished,)

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._run = suite.SuiteRun(suite="drive-v1", split="tune", nodes=[])
        known = {"suite": "drive-v1", "split": "tune", "nodes": [], "bundles": {}}
        identity = json.loads(msgspec.json.encode(known))
        self.tree = {"seed": 3, "success": True, "end": "goal", "duration_s": 1.5, "events": ["cut_in"]}
        self._first = to_json({"run": identity})

    def make(self, rng: np.random.Generator) -> bytes:
        first = mutate_bytes(rng, self._first) if rng.integers(8) == 0 else self._first
        if rng.integers(20) == 0:
            first = to_json(pick(rng, ([], 7, None, "run", {"run": []}, [{"run": 1}])))
        rows = [to_json(self.tree), super().make(rng), to_json(self.tree)]
        return b"\n".join([first, *rows][: int(rng.integers(1, 5))]) + b"\n"

    def load(self, path: Path) -> None:
        suite._finished(path, self._run)

    def is_past_header(self, message: str) -> bool:
        return "another configuration" not in message


class Graphs(_OfFile):
    """ONNX files of others, as far as our own code reads them."""

    name = "onnx"
    share = 8_000
    suffix = ".onnx"
    memory_mb = 384
    readers = (foreign_onnx.read_foreign, foreign_onnx._load, foreign_onnx._fixed_output, foreign_onnx._dimensions)

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        helper, kind = onnx.helper, onnx.TensorProto
        weight = onnx.numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
        shape = onnx.numpy_helper.from_array(np.array([1, -1, 2], np.int64), "shape")
        self._models = []
        for declared in ([1, 36, 2], None, ["a", "b", "c"]):
            graph = helper.make_graph(
                [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Reshape", ["c", "shape"], ["y"])],
                "toy",
                [helper.make_tensor_value_info("x", kind.FLOAT, [1, 3, 8, 8])],
                [helper.make_tensor_value_info("y", kind.FLOAT, declared)],
                [weight, shape],
            )
            self._models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))
        self._bytes = [model.SerializeToString() for model in self._models]

    def make(self, rng: np.random.Generator) -> bytes:
        at, kind = int(rng.integers(3)), int(rng.integers(5))
        if kind == 0:
            return splice(rng, self._bytes[at], pick(rng, self._bytes))
        if kind < 3:
            return mutate_bytes(rng, self._bytes[at])
        model = onnx.ModelProto.FromString(self._bytes[at])
        value = pick(rng, (model.graph.input[0], model.graph.output[0]))
        whole = [int(n) for n in NUMBERS if isinstance(n, int) and -(2**63) <= n < 2**63]
        change = int(rng.integers(7))
        if change == 0:
            value.type.tensor_type.elem_type = int(pick(rng, (0, 1, 10, 16, 40, 2**31 - 1, -1)))
        elif change == 1 and value.type.tensor_type.shape.dim:
            pick(rng, value.type.tensor_type.shape.dim).dim_value = pick(rng, whole)
        elif change == 2:
            model.opset_import[0].version = pick(rng, whole)
        elif change == 3:
            tensor = pick(rng, model.graph.initializer)
            tensor.dims[0] = pick(rng, whole)
        elif change == 4:
            node = pick(rng, model.graph.node)
            node.op_type = pick(rng, ("Loop", "If", "Scan", "Resize", "Expand", "ConstantOfShape", "Tile", "Nope", ""))
        elif change == 5:
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", pick(rng, ("/etc/passwd", "../../x", "/dev/zero", "", "a\0b"))
        else:
            pick(rng, (model.graph.node, model.graph.input, model.graph.output)).pop()
        return model.SerializeToString()

    def load(self, path: Path) -> None:
        foreign_onnx.read_foreign(path)

    def is_past_header(self, message: str) -> bool:
        return "expected an ONNX file" not in message


class Options:
    """``--seeds`` and ``--inject`` as people write them."""

    name = "options"
    share = 40_000
    refusals = (RefusedError,)
    memory_mb = 64
    readers = (seeds.parse_seeds, inject.parse_injections, inject._parse_fault)
    texts = (
        "0:100",
        "7:8",
        "guard=delay:80ms,drop:5%,freeze:1s@10s,kill@12s",
        "world=kill@4s",
        "guard=drop:100%",
        "world=stuck:camera_front@2s..4s",
        "guard=clock:+3s@5s,loss:30%,nan@1s",
    )

    def __init__(self, rng: np.random.Generator) -> None:
        pass

    def make(self, rng: np.random.Generator) -> bytes:
        text = pick(rng, self.texts)
        for _ in range(int(rng.integers(0, 3))):
            at = int(rng.integers(len(text) + 1))
            more = pick(
                rng, (":", "=", ",", "%", "@", "ms", "s", "9" * 400, "9" * 5000, "-", ".", "٣", "²", " ", "\0", "")
            )
            text = text[:at] + str(more) + text[at + int(rng.integers(0, 3)) :]
        return text.encode()

    def read(self, data: bytes) -> bool:
        text = data.decode()
        try:
            if "=" in text:
                found = inject.parse_injections([text], {"world": ("camera_front",), "guard": ("command",)})
                times = [t for faults in found.values() for f in faults for t in (f.amount, f.start_s, f.end_s or 0.0)]
                if not np.isfinite(times).all():
                    raise AssertionError("accepted a time that never comes")
            else:
                seeds.parse_seeds(text)
        except ValueError as error:
            if not str(error).startswith(("--seeds: ", "--inject: ")):
                raise AssertionError(f"does not name the option: {error}") from error
            raise RefusedError(str(error)) from error
        return True

    def is_past_header(self, message: str) -> bool:
        return "no node" not in message

    def close(self) -> None:
        pass


FILE_TARGETS: tuple[Any, ...] = (Profiles, Cameras, Labels, Bundles, Scores, Progress, Graphs, Options)
