"""What a run consists of, read from a YAML profile and checked as a whole before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from visuomotor.deploy.runtime.tuning import read_tuning
from visuomotor.launch.tasks import KINDS, VEHICLE, TaskParts, load, parts_of
from visuomotor.messages.camera import load_camera
from visuomotor.messages.keys import HOST_NAME
from visuomotor.messages.network import CURVE, PLAIN, Encryption, assign_ports, check_address
from visuomotor.messages.services import SERVICES
from visuomotor.messages.yaml_file import YamlError, load_yaml

PROFILES = Path(__file__).parent / "profiles"
STRAIGHT = "straight"
BASELINE_FORECASTERS = ("cv", "cv1", "kalman", "none")


class ProfileError(ValueError):
    """A profile that cannot be used; names the file, the key and what was expected."""


NO_DETECTOR = "none"


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Perception(_Strict):
    """How the road users become known. ``truth`` and ``blind`` are for evaluation only."""

    mode: Literal["real", "truth", "blind"] = "real"
    detector: dict[str, str] = {}  # camera -> bundle, or "none": shown and recorded, but nobody looks for objects in it
    forecaster: str = "none"  # bundle, "cv", "cv1", "kalman" or "none"

    @property
    def detectors(self) -> dict[str, str]:
        """Camera -> bundle of those in which objects are looked for."""
        return {camera: bundle for camera, bundle in self.detector.items() if bundle != NO_DETECTOR}


class Source(_Strict):
    """Where the frames of a camera come from: a V4L2 device, a video file or an address, with what is asked of it."""

    device: str
    width: int | None = pydantic.Field(default=None, ge=16, le=16384)
    height: int | None = pydantic.Field(default=None, ge=16, le=16384)
    rate_hz: float | None = pydantic.Field(default=None, ge=1.0, le=240.0)
    fourcc: str | None = pydantic.Field(default=None, min_length=4, max_length=4)
    buffers: int | None = pydantic.Field(default=None, ge=1, le=32)
    latency_s: float = pydantic.Field(default=0.0, ge=0.0, le=1.0)  # from exposure to the stamp
    may_fail: bool = False  # True: the run goes on without this camera

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_bare_name(cls, data: object) -> object:
        return {"device": str(data)} if isinstance(data, str | int) else data


class AssumedVehicle(_Strict):
    """What is assumed where nothing tells it: the speed of a bare video, the road where there is no route file."""

    speed_mps: float | None = pydantic.Field(default=None, ge=0.0, le=70.0)
    lane_count: int = pydantic.Field(ge=1, le=8)
    lane_width_m: float = pydantic.Field(ge=2.0, le=6.0)
    speed_limit_mps: float = pydantic.Field(gt=0.0, le=70.0)


class Press(_Strict):
    """A button or pedal of the DRIVER message, held from ``at_s`` of the episode for ``for_s``."""

    signal: str
    at_s: float = pydantic.Field(ge=0.0)
    for_s: float = pydantic.Field(default=0.5, gt=0.0)


class CanBus(_Strict):
    """The CAN bus that the car is behind, opened by python-can; ``options`` are its interface's own.

    In simulation the simulated car is behind it, and in task 'vehicle' with ``visuomotor launch car``: the ``driver``
    who presses buttons is theirs.
    """

    interface: str
    channel: str
    options: dict[str, str | int | float | bool] = {}
    dbc: str = ""  # empty: deploy/vehicle/car.dbc
    start_engaged: bool = False  # False: nothing moves before the driver's button
    navigation: bool = True  # the pose is that of POSITION and HEADING
    dry_run: bool = False  # True: no COMMAND is sent; commands.csv in the run's folder says what it would have been
    driver: tuple[Press, ...] = ()


class OrderChange(_Strict):
    """Another order in the middle of an episode."""

    at_s: float = pydantic.Field(ge=0.0)
    text: str = pydantic.Field(min_length=1)


Device = Literal["auto", "cpu", "cuda", "tensorrt"]


class Member(_Strict):
    """One host of a run and the nodes on it."""

    address: Annotated[str, pydantic.AfterValidator(check_address)]
    nodes: tuple[str, ...] = pydantic.Field(min_length=1)
    device: Device | None = None  # where networks run on this host; None: as the profile says


class Hosts(_Strict):
    """The hosts of a run. The one with ``world`` launches it, the others join."""

    members: dict[str, Member] = pydantic.Field(min_length=2)
    encryption: Encryption = "curve"
    keys: Path | None = None  # folder that `visuomotor keys new` made, relative to the profile
    base_port: int = 17400
    silent_s: float = pydantic.Field(default=2.0, ge=0.5, le=60.0)  # after which a host counts as gone

    @pydantic.model_validator(mode="after")
    def _members_fit(self) -> Hosts:
        for name in self.members:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"members: '{name}': expected a name like gpu-box, up to 32 of a-z, 0-9 and -")
        nodes = [node for member in self.members.values() for node in member.nodes]
        addresses = [member.address for member in self.members.values()]
        if twice := sorted({n for n in nodes if nodes.count(n) > 1}):
            raise ValueError(f"members: {', '.join(twice)}: on two hosts; expected each node on one")
        if twice := sorted({a for a in addresses if addresses.count(a) > 1}):
            raise ValueError(f"members: {', '.join(twice)}: of two hosts; expected an address for each")
        if self.encryption == CURVE and self.keys is None:
            raise ValueError(
                "keys: expected the folder that `visuomotor keys new` made, got none; without keys there is only "
                f"'encryption: {PLAIN}'"
            )
        if self.encryption == PLAIN and self.keys is not None:
            raise ValueError(f"keys: {self.keys} would not be used with 'encryption: {PLAIN}'; expected one of the two")
        assign_ports(self.base_port, nodes)
        return self

    def keys_folder(self, source: Path) -> Path | str:
        """The folder of keys of a profile in file ``source``; empty where there are none."""
        return "" if self.keys is None else source.parent / self.keys.expanduser()


class Runtime(_Strict):
    """How sessions compute on ``device``: the keys of ``deploy.runtime.tuning.Tuning``, explained there."""

    spinning: bool = False
    cuda_graph: bool = False
    fp16: bool = False
    at_once: bool = False


class Timeouts(_Strict):
    """How long to wait before something counts as dead, s."""

    ready_s: float = pydantic.Field(default=60.0, gt=0.0)
    step_s: float = pydantic.Field(default=20.0, gt=0.0)
    stop_s: float = pydantic.Field(default=5.0, gt=0.0)


class Profile(_Strict):
    """One run's configuration; ``source`` is the file it came from."""

    source: Path
    task: str  # a task, or "vehicle": the robot of a task outside the simulator
    suite: str
    split: Literal["train", "tune", "evaluation"] = "evaluation"
    clock: Literal["lockstep", "realtime"] = "lockstep"
    cameras: dict[str, Path]
    perception: Perception
    policy: str
    guard: bool = True
    device: Device = "auto"
    threads: int = pydantic.Field(1, ge=1, le=64)
    runtime: Runtime = Runtime()
    restart: Literal["never", "between_episodes"] = "never"  # of nodes that died; a fault stays a fault
    max_duration_s: float | None = pydantic.Field(default=None, gt=0.0)  # of an episode; then it ends as a timeout
    vehicle: AssumedVehicle | None = None
    can: CanBus | None = None
    hosts: Hosts | None = None  # None: all on one
    sources: dict[str, Source] = {}  # of task vehicle, by camera
    route: str = STRAIGHT  # or a file of waypoints, relative to this one
    order: str = ""  # where the task takes orders: what to do in place of the suite's own
    order_changes: tuple[OrderChange, ...] = ()
    timeouts: Timeouts = Timeouts()

    @pydantic.field_validator("task")
    @classmethod
    def _task_is_known(cls, task: str) -> str:
        if task not in KINDS:
            raise ValueError(f"expected one of {', '.join(KINDS)}, got {task!r}")
        return task

    @pydantic.field_validator("cameras")
    @classmethod
    def _cameras_are_services(cls, cameras: dict[str, Path]) -> dict[str, Path]:
        known = [name for name in SERVICES if name.startswith("camera_")]
        if unknown := sorted(set(cameras) - set(known)):
            raise ValueError(f"unknown camera {', '.join(unknown)}; expected some of {', '.join(known)}")
        if not cameras:
            raise ValueError("expected at least one camera")
        return cameras

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Profile:
        if self.perception.mode == "real" and set(self.perception.detector) != set(self.cameras):
            cameras, detectors = sorted(self.cameras), sorted(self.perception.detector)
            raise ValueError(f"perception.detector: expected one for each of {cameras}, got {detectors}")
        if self.perception.mode == "real" and not self.perception.detectors:
            raise ValueError("perception.detector: expected one that looks, got 'none' for every camera")
        if self.task == VEHICLE:
            if self.perception.mode != "real":
                raise ValueError(f"perception.mode: on a vehicle there is only 'real', got '{self.perception.mode}'")
            if self.clock != "realtime":
                raise ValueError(f"clock: a vehicle has only 'realtime', got '{self.clock}'")
            if not self.guard:
                raise ValueError("guard: may be switched off in simulation only")
            self._check_vehicle()
        else:
            for key, default in (("vehicle", None), ("sources", {}), ("route", STRAIGHT)):
                if getattr(self, key) != default:
                    raise ValueError(f"{key}: only for task 'vehicle', not '{self.task}'")
        self._check_orders()
        read_tuning(self.runtime.model_dump()).check(self.device)
        if self.can is not None and not self.parts.can_world:
            raise ValueError(f"can: there is no {self.parts.robot} behind a CAN bus")
        if self.can is not None and self.clock != "realtime":
            raise ValueError(f"clock: a CAN bus has only 'realtime', got '{self.clock}'")
        return self

    def _check_orders(self) -> None:
        """Orders of a task that takes them, by its own reading of their text."""
        texts = {"order": self.order} if self.order else {}
        texts |= {f"order_changes.{i}.text": change.text for i, change in enumerate(self.order_changes)}
        for key, text in texts.items():
            if not self.parts.takes_orders:
                raise ValueError(f"{key}: task '{self.task}' takes no orders")
            try:
                load(self.parts.check_order)(text)
            except ValueError as error:
                raise ValueError(f"{key}: {str(error).removeprefix('order: ')}") from error

    def _check_vehicle(self) -> None:
        """Sources, route and what is assumed, of a task 'vehicle'."""
        lead = next(iter(self.cameras))
        if unknown := sorted(set(self.sources) - set(self.cameras)):
            raise ValueError(f"sources: no calibration of {unknown[0]}; under cameras are {', '.join(self.cameras)}")
        if lead in self.sources and self.sources[lead].may_fail:
            raise ValueError(f"sources.{lead}.may_fail: the first camera sets the ticks and must not fail")
        straight = self.route == STRAIGHT
        if straight and self.vehicle is None:
            raise ValueError("vehicle: required where the route is 'straight': lanes and speed limit are assumed")
        if not straight and self.vehicle is not None:
            raise ValueError("vehicle: nothing is assumed where route is a file, which tells lanes and speed limit")
        if not straight and (self.can is None or not self.can.navigation):
            raise ValueError("route: a file needs the car's pose on it: can with navigation (POSITION and HEADING)")
        if self.vehicle is not None and (self.vehicle.speed_mps is None) is (self.can is None):
            expected = "required without can" if self.can is None else "comes over CAN, nothing is assumed"
            raise ValueError(f"vehicle.speed_mps: {expected}")

    @property
    def parts(self) -> TaskParts:
        """What is run for the task."""
        return parts_of(self.task)

    @property
    def camera_files(self) -> list[str]:
        """Calibration files in the order of ``cameras``, absolute."""
        return [str(self.source.parent / path) for path in self.cameras.values()]

    @property
    def route_file(self) -> str:
        """Route file, absolute, or "straight"."""
        return self.route if self.route == STRAIGHT else str(self.source.parent / self.route)

    def override(self, **changes: object) -> Profile:
        """A checked copy with other values; ``perception_mode``, ``forecaster`` and ``detector`` go into perception.

        A ``route`` leaves nothing to assume: ``vehicle`` goes.
        """
        data = self.model_dump()
        for key, value in changes.items():
            if value is None:
                continue
            if key == "perception_mode":
                data["perception"]["mode"] = value
            elif key == "forecaster":
                data["perception"]["forecaster"] = value
            elif key == "detector":
                data["perception"]["detector"] = self._choose_detectors(str(value))
            elif key == "route":
                data |= {"route": value, "vehicle": None}
            else:
                data[key] = value
        return _validate(data, self.source)

    def _choose_detectors(self, text: str) -> dict[str, str]:
        """Camera -> bundle from ``camera_front=BUNDLE,...`` (others stay), a folder of bundles, or one for all."""
        chosen = dict(self.perception.detector)
        if "=" in text:
            for part in text.split(","):
                camera, _, bundle = part.partition("=")
                if camera not in self.cameras or not bundle:
                    known = ", ".join(self.cameras)
                    raise ProfileError(f"--detector: expected CAMERA=BUNDLE with a CAMERA of {known}, got {part!r}")
                chosen[camera] = bundle
            return chosen
        folder = Path(text)
        if folder.is_dir() and not (folder / "bundle.json").exists():
            return chosen | {c: str(folder / Path(bundle).name) for c, bundle in self.perception.detectors.items()}
        return {camera: text if chosen.get(camera) != NO_DETECTOR else NO_DETECTOR for camera in self.cameras}


def load_profile(path: str | Path) -> Profile:
    """Read a profile given by file, or a shipped one by name ("car", "vehicle-video"), with its calibrations.

    Raises ProfileError (or ValueError of ``messages.camera``) that names the file, the key and what was expected.
    """
    file = Path(path)
    if file.name == str(path) and file.suffix in ("", ".yaml") and not file.is_file():
        shipped = PROFILES / f"{file.stem}.yaml"
        file = shipped if shipped.is_file() else file
    try:
        data = load_yaml(file)
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise ProfileError(f"{file}: profile cannot be read ({error.strerror}); shipped: {names}") from error
    except YamlError as error:
        raise ProfileError(str(error)) from error
    if not isinstance(data, dict):
        raise ProfileError(f"{file}: expected a mapping of keys, got {type(data).__name__}; is the file truncated?")
    profile = _validate({**data, "source": file.resolve()}, file)
    for name, calibration in zip(profile.cameras, profile.camera_files, strict=True):
        if (found := load_camera(Path(calibration)).name) != name:
            raise ProfileError(f"{calibration}: camera_name: expected '{name}' as in {file}, got '{found}'")
    return profile


def restore_profile(data: dict[str, object], local: Profile) -> Profile:
    """A profile that another host has dumped, with the files and the hosts of ``local``; ProfileError as loading."""
    return _validate({**data, "source": local.source, "hosts": local.hosts}, local.source)


def _validate(data: dict[str, object], file: Path) -> Profile:
    try:
        return Profile.model_validate(data)
    except pydantic.ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            got = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r:.200}"
            problems.append(f"{key}: {message}{got}" if key else message)
        raise ProfileError(f"{file}: " + "; ".join(problems)) from error
