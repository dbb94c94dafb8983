"""Every message that crosses a process boundary, as one msgspec struct each.

Conventions: SI units and radians, unit in the name; frames by prefix (``ego_`` moves with the robot: x forward, y left,
z up; ``odom_`` is dead-reckoned from ``vehicle_state``; ``map_`` belongs to the route); time in integer nanoseconds;
images uint8 H x W x 3, BGR. Arrays are numpy, N is the number of objects and may be zero.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from visuomotor.messages.tasks import DEFAULT_SUITE, DEFAULT_TASK, TASKS

CLASS_NAMES = TASKS[DEFAULT_TASK].class_names  # of the road; those of other tasks are in their rows
CAR, TRUCK, CYCLIST, PEDESTRIAN, CONE = range(5)


def array(dtype: str, *shape: int | str) -> msgspec.Meta:
    """Field annotation: the dtype and shape an array must have, e.g. ``array("float32", "N", 2)``."""
    return msgspec.Meta(extra={"dtype": dtype, "shape": shape})


class Header(msgspec.Struct, kw_only=True):
    """Origin and lineage of a message. The node loop fills all but ``valid`` and, at the source, ``t_capture_ns``."""

    run_id: str = ""
    episode: int = 0
    tick: int = 0
    seq: int = 0
    t_capture_ns: int = 0  # 0 from a node: inherit the capture time of its trigger input
    parents: dict[str, int] = {}  # service -> seq of the message this one was computed from
    valid: bool = False


class Message(msgspec.Struct, kw_only=True):
    """Base of all messages."""

    header: Header = msgspec.field(default_factory=Header)


class CameraFrame(Message, kw_only=True):
    """One image. The calibration is a file known to both ends, see ``messages.camera``."""

    image: Annotated[np.ndarray, array("uint8", "H", "W", 3)]


class VehicleState(Message, kw_only=True):
    """Proprioception of the car: wheel odometry and inertial sensors, and the pose dead-reckoned from them.

    The origin of ``ego_`` is the ground point under the middle of the wheelbase; ``odom_*`` is its pose in ``odom_``.
    """

    speed_mps: float = 0.0  # along ego x
    acceleration_mps2: float = 0.0
    yaw_rate_radps: float = 0.0
    steering_angle_rad: float = 0.0  # mean front-wheel angle, left positive
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    odom_x_m: float = 0.0
    odom_y_m: float = 0.0
    odom_yaw_rad: float = 0.0


class ArmState(Message, kw_only=True):
    """Proprioception of a seven-joint arm with a parallel gripper, from base to flange; its foot is ``odom_``."""

    joint_position_rad: Annotated[np.ndarray, array("float32", 7)]
    joint_velocity_radps: Annotated[np.ndarray, array("float32", 7)]
    gripper_width_m: float = 0.0  # between the fingers
    gripper_force_n: float = 0.0  # of one finger against what it holds, 0 in the air
    base_link_points_m: Annotated[np.ndarray, array("float32", "L", 3)] = msgspec.field(
        default_factory=lambda: np.zeros((0, 3), np.float32)
    )  # the arm as a line from its foot over its joints to the point between the finger tips: what a picture shows


class Order(Message, kw_only=True):
    """What the cell's controller still wants, per class of the task, and into which bin; counts go down as parts land.

    ``refused`` says why the newest ``operator`` order was not taken, empty when it was.
    """

    wanted: Annotated[np.ndarray, array("int32", "C")]  # parts still to be binned; 0: not ordered, or done
    bin_index: Annotated[np.ndarray, array("int32", "C")]  # -1: not ordered
    base_bin_m: Annotated[np.ndarray, array("float32", "M", 3)]  # middle of each bin's opening
    bin_size_m: tuple[float, float] = (0.0, 0.0)  # length, width
    base_belt_m: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # x0, y0, x1, y1
    base_reach_m: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # of the belt, where parts may be taken
    refused: str = ""


class Route(Message, kw_only=True):
    """Map and localisation: the road ahead as seen from the noisy localised pose, in ``odom_``.

    ``odom_reference_m`` is the centre line of the rightmost lane, one point every ``spacing_m`` of arc length, from
    ``start_m`` (negative: behind the car) onwards; lane i (0 = rightmost) is centred ``i * lane_width_m`` to its left.
    """

    odom_reference_m: Annotated[np.ndarray, array("float32", "P", 2)]
    start_m: float = -40.0
    spacing_m: float = 2.0
    lane_count: int = 2
    lane_width_m: float = 3.5
    speed_limit_mps: float = 13.9
    goal_distance_m: float = 0.0


class Detections(Message, kw_only=True):
    """Objects found in the frames of one tick, all cameras together.

    ``ground_px`` is the image of the point on the ground under the object's centre; ``ego_position_m`` the same point
    in metres. ``heading_rad`` is the object's yaw in ``ego_``, NaN where the detector does not tell it. ``size_m`` is
    length, width.
    """

    cameras: tuple[str, ...] = ()  # cameras whose frames contributed
    camera_index: Annotated[np.ndarray, array("int32", "N")]  # into ``cameras``
    class_id: Annotated[np.ndarray, array("int32", "N")]
    score: Annotated[np.ndarray, array("float32", "N")]
    box_px: Annotated[np.ndarray, array("float32", "N", 4)]  # x0, y0, x1, y1
    ground_px: Annotated[np.ndarray, array("float32", "N", 2)]
    ego_position_m: Annotated[np.ndarray, array("float32", "N", 2)]
    ego_covariance_m2: Annotated[np.ndarray, array("float32", "N", 2, 2)]
    heading_rad: Annotated[np.ndarray, array("float32", "N")]
    size_m: Annotated[np.ndarray, array("float32", "N", 2)]


class Tracks(Message, kw_only=True):
    """Objects followed over time, in ``odom_``; position is the centre of the footprint, size is length, width."""

    cameras: tuple[str, ...] = ()  # cameras that are alive: what lies in view of the others is unknown
    track_id: Annotated[np.ndarray, array("int32", "N")]
    class_id: Annotated[np.ndarray, array("int32", "N")]
    score: Annotated[np.ndarray, array("float32", "N")]
    odom_position_m: Annotated[np.ndarray, array("float32", "N", 2)]
    odom_velocity_mps: Annotated[np.ndarray, array("float32", "N", 2)]
    odom_heading_rad: Annotated[np.ndarray, array("float32", "N")]
    size_m: Annotated[np.ndarray, array("float32", "N", 2)]
    covariance: Annotated[np.ndarray, array("float32", "N", 4, 4)]  # of x, y, vx, vy
    age_s: Annotated[np.ndarray, array("float32", "N")]  # since birth
    unseen_s: Annotated[np.ndarray, array("float32", "N")]  # since the last matched detection


class Forecast(Message, kw_only=True):
    """Where each track may go: K futures of T steps, ``step_s`` apart, the first one step after the capture time.

    ``spread_m`` holds sigma_x, sigma_y and the correlation of each position.
    """

    step_s: float = 0.2
    track_id: Annotated[np.ndarray, array("int32", "N")]
    probability: Annotated[np.ndarray, array("float32", "N", "K")]
    odom_position_m: Annotated[np.ndarray, array("float32", "N", "K", "T", 2)]
    spread_m: Annotated[np.ndarray, array("float32", "N", "K", "T", 3)]


class PolicyCommand(Message, kw_only=True):
    """What the policy wants, as in ``Command``, and the raw action it came from."""

    acceleration_mps2: float = 0.0
    steering_angle_rad: float = 0.0
    joint_velocity_radps: tuple[float, ...] = ()
    gripper_width_m: float = 0.0
    action_norm: tuple[float, ...] = ()


class Command(Message, kw_only=True):
    """What the actuators get, after the guard. ``causes`` names every intervention of this tick.

    A car obeys acceleration and front-wheel angle, an arm the velocities of its joints and the width of its gripper.
    """

    acceleration_mps2: float = 0.0
    steering_angle_rad: float = 0.0
    joint_velocity_radps: tuple[float, ...] = ()
    gripper_width_m: float = 0.0
    causes: tuple[str, ...] = ()
    latched: bool = False


OperatorKind = Literal["engage", "disengage", "emergency_stop", "reset", "order"]


class Operator(Message, kw_only=True):
    """A person's word: it always wins over the policy."""

    kind: OperatorKind
    text: str = ""


class Episode(Message, kw_only=True):
    """Phases of an episode. ``reset``: every node clears its state and acknowledges; ``start``: all did; ``end``."""

    phase: Literal["reset", "start", "end"]
    index: int = 0
    task: str = DEFAULT_TASK
    suite: str = DEFAULT_SUITE
    split: str = "evaluation"
    seed: int = 0
    end: str = ""
    last_tick: int = -1  # of ``end``: finish this tick first; -1 stops at once


class NodeHealth(Message, kw_only=True):
    """Liveness of a node; also its acknowledgement of a reset (state ``ready`` in that episode)."""

    node: str
    state: Literal["starting", "ready", "running", "stopped", "fault"]
    provider: str = ""
    text: str = ""
    missed_deadlines: int = 0
    steps: int = 0
    last_tick: int = -1  # the last tick stepped in this episode
    digests: dict[str, str] = {}  # topic -> sha256 of what this node sent in the episode; with state ``stopped``
    dropped: dict[str, int] = {}  # cause -> messages refused since the start: malformed, foreign, stale, ...


class Trace(Message, kw_only=True):
    """Wall-clock timings of one step of one node, on that host's monotonic clock."""

    node: str
    host: str = ""
    stages: tuple[tuple[str, int, int], ...] = ()  # name, t_start_ns, t_end_ns


EndName = Literal["", "goal", "collision", "offroad", "timeout", "fault"]


class Truth(Message, kw_only=True):
    """State of the simulator. Read by evaluation, ``truth_perception`` and the fitting of error models only."""

    map_ego_pose: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x m, y m, yaw rad
    odom_ego_pose: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the dead-reckoned pose of the same instant
    speed_mps: float = 0.0
    acceleration_mps2: float = 0.0
    lateral_acceleration_mps2: float = 0.0
    lane_position_m: float = 0.0  # left of the rightmost lane's centre
    progress_m: float = 0.0
    route_length_m: float = 0.0
    collision: bool = False
    at_fault: bool = False
    offroad: bool = False
    end: EndName = ""
    events: tuple[str, ...] = ()  # the scenario events of this episode
    agent_id: Annotated[np.ndarray, array("int32", "N")]
    class_id: Annotated[np.ndarray, array("int32", "N")]
    map_position_m: Annotated[np.ndarray, array("float32", "N", 2)]
    map_velocity_mps: Annotated[np.ndarray, array("float32", "N", 2)]
    map_yaw_rad: Annotated[np.ndarray, array("float32", "N")]
    size_m: Annotated[np.ndarray, array("float32", "N", 3)]  # length, width, height
    manoeuvre: tuple[str, ...] = ()  # per agent, for scores by kind of motion
    kinds: tuple[str, ...] = ()  # per agent, what makes it hard by the scenario; N, or none
    height_m: Annotated[np.ndarray, array("float32", "L")] = msgspec.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )  # of the agents' middles above the ground; N, or none where nothing is ever lifted
    parts_ordered: int = 0  # ordered parts that have come within reach so far
    parts_binned: int = 0  # of these, how many lie in the right bin
    wrong_parts: int = 0  # anything else that was binned
    belt_speed_mps: float = 0.0
