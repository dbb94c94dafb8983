"""Reading what stable-baselines3 saved: the algorithm's zip, the VecNormalize file, and whether they belong together.

Both unpickle, and so run what their author put into them: export time only, on files of your own training.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import TQC, RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from visuomotor.deploy.export.npz import load_arrays

Shapes = Mapping[str, tuple[int, ...]]
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "PPO": PPO,
    "A2C": A2C,
    "SAC": SAC,
    "TD3": TD3,
    "DQN": DQN,
    "TQC": TQC,
    "RecurrentPPO": RecurrentPPO,
}
SAVED_BY_ALL = "num_timesteps"  # a plain number in the data of every algorithm
OFF_POLICY = ((SACPolicy, "SAC"), (TD3Policy, "TD3"), (DQNPolicy, "DQN"), (TQCPolicy, "TQC"))
# Of no use to a deterministic policy, and the usual reasons why a zip does not load elsewhere: schedules are pickled
# code, a replay buffer takes memory, and the one for hindsight goals wants an environment.
ON_POLICY_UNUSED: dict[str, Any] = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0}
PPO_UNUSED: dict[str, Any] = {"clip_range": lambda _: 0.2, "clip_range_vf": None}
OFF_POLICY_UNUSED: dict[str, Any] = {
    "buffer_size": 1,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
    "n_steps": 1,
    "n_envs": 1,
    "exploration_schedule": lambda _: 0.0,
    "action_noise": None,
}


def load_model(checkpoint: Path) -> tuple[str, BaseAlgorithm]:
    """Name of the algorithm and the loaded model, on the CPU. Raises ValueError that names the file and the reason."""
    if not checkpoint.is_file():
        what = "a folder" if checkpoint.is_dir() else "no such file"
        raise ValueError(f"{checkpoint}: {what}; expected the zip of stable-baselines3's model.save()")
    if (checkpoint.parent / "normalizer.json").is_file() and (checkpoint.parent / "progress.json").is_file():
        raise ValueError(
            f"{checkpoint}: part of a checkpoint of visuomotor train policy, whose normaliser lies beside it; "
            f"give the folder {checkpoint.parent}"
        )
    try:
        data, _, _ = load_from_zip_file(checkpoint, device="cpu", custom_objects=dict(ON_POLICY_UNUSED))
    except ImportError as error:
        raise ValueError(
            f"{checkpoint}: {error}: the policy was saved with code of its own; put its folder on PYTHONPATH"
        ) from error
    except Exception as error:  # whatever unpickling raises
        raise ValueError(f"{checkpoint}: not a checkpoint of stable-baselines3 ({_brief(error)})") from error
    if not data or SAVED_BY_ALL not in data:  # of a cut zip, that of the weights inside it is found
        raise ValueError(
            f"{checkpoint}: damaged, or not an archive of stable-baselines3; expected that of model.save()"
        )
    name = find_algorithm(checkpoint, data)
    unused = dict(ON_POLICY_UNUSED)
    if name not in ("PPO", "A2C", "RecurrentPPO"):
        unused |= {key: value for key, value in OFF_POLICY_UNUSED.items() if key in data}
    elif name != "A2C":
        unused |= PPO_UNUSED
    try:
        model = ALGORITHMS[name].load(checkpoint, device="cpu", custom_objects=unused)
    except Exception as error:
        raise ValueError(f"{checkpoint}: {name}.load fails: {_brief(error)}") from error
    model.policy.set_training_mode(False)
    return name, model


def find_algorithm(checkpoint: Path, data: Mapping[str, Any]) -> str:
    """The algorithm that wrote a zip, from its policy's class and its settings: the zip does not say."""
    policy = data.get("policy_class")
    if isinstance(policy, type):
        if issubclass(policy, RecurrentActorCriticPolicy):
            return "RecurrentPPO"
        if issubclass(policy, ActorCriticPolicy) and "cg_max_steps" not in data:  # TRPO has it
            return "PPO" if "clip_range" in data else "A2C"
        for kind, name in OFF_POLICY:
            if issubclass(policy, kind):
                return name
    found = f"{policy.__module__}.{policy.__qualname__}" if isinstance(policy, type) else "none that loads here"
    raise ValueError(f"{checkpoint}: policy_class: expected a policy of {', '.join(ALGORITHMS)}, got {found}")


def load_normalizer(source: str, space: Shapes, frame: Shapes) -> VecNormalize | None:
    """The VecNormalize of a file: ``VecNormalize.save``'s pickle, or an npz of ``save_statistics``; None for "none".

    ``space`` is what the model sees by key ("" without keys), ``frame`` one frame of it (the same without stacking).
    Raises ValueError that names the file when it is neither, or when its statistics are those of another observation.
    """
    if source == "none":
        return None
    path = Path(source)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"--vecnormalize: {path}: {what}; expected a file of VecNormalize.save, or none")
    found = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    if not found.norm_obs:
        return None
    shapes = shapes_of_statistics(found)
    if not (_fits(shapes, space) or _fits(shapes, frame)):
        expected = " or ".join(dict.fromkeys((_say(space), _say(frame))))
        raise ValueError(f"{path}: statistics for {_say(shapes)}, the model sees {expected}{_hint(shapes, space)}")
    return found


def normalizes_frames(found: VecNormalize, space: Shapes) -> bool:
    """True when the statistics are those of one frame, so that normalising came before stacking."""
    return not _fits(shapes_of_statistics(found), space)


def shapes_of_statistics(found: VecNormalize) -> Shapes:
    """Shape of the statistics by key of the observation that is normalised ("" without keys)."""
    rms = found.obs_rms
    parts = {key: rms[key] for key in found.norm_obs_keys or ()} if isinstance(rms, dict) else {"": rms}
    return {key: tuple(part.mean.shape) for key, part in parts.items()}


def save_statistics(normalizer: VecNormalize, path: str | Path) -> None:
    """Observation statistics as an npz without pickles, for who hands a checkpoint on."""
    rms = normalizer.obs_rms
    parts = rms.items() if isinstance(rms, dict) else [("", rms)]
    arrays = {f"{name}{'.' * bool(key)}{key}": getattr(r, name) for key, r in parts for name in ("mean", "var")}
    np.savez(path, **arrays, clip_obs=np.float64(normalizer.clip_obs), epsilon=np.float64(normalizer.epsilon))


def _read_pickle(path: Path) -> VecNormalize:
    try:
        with path.open("rb") as file:
            found = pickle.load(file)
    except Exception as error:  # whatever unpickling raises
        raise ValueError(f"{path}: not a file of VecNormalize.save ({_brief(error)})") from error
    if not isinstance(found, VecNormalize):
        raise ValueError(f"{path}: expected a VecNormalize, got {type(found).__name__}")
    return found


def _read_npz(path: Path) -> VecNormalize:
    arrays = load_arrays(path)
    try:
        data = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        clip, epsilon = float(data.pop("clip_obs")), float(data.pop("epsilon"))
        keys = [name.partition(".")[2] for name in data if name.partition(".")[0] == "mean"]
        rms = {key: _make_rms(data, f".{key}" if key else "") for key in keys}
    except Exception as error:
        raise ValueError(f"{path}: not an npz with mean, var, clip_obs and epsilon ({_brief(error)})") from error
    found = VecNormalize.__new__(VecNormalize)
    settings = {"norm_obs": True, "clip_obs": clip, "epsilon": epsilon, "venv": None, "training": False}
    found.__dict__.update(settings, norm_obs_keys=None if "" in rms else list(rms), obs_rms=rms.get("", rms))
    return found


def _make_rms(data: Mapping[str, np.ndarray], suffix: str) -> RunningMeanStd:
    rms = RunningMeanStd(shape=data[f"mean{suffix}"].shape)
    rms.mean, rms.var = data[f"mean{suffix}"], data[f"var{suffix}"]
    if rms.mean.shape != rms.var.shape:
        raise ValueError(f"mean{suffix} {rms.mean.shape} and var{suffix} {rms.var.shape}")
    return rms


def _fits(shapes: Shapes, expected: Shapes) -> bool:
    return all(expected.get(key) == shape for key, shape in shapes.items())


def _hint(shapes: Shapes, space: Shapes) -> str:
    for key, shape in shapes.items():
        part, whole = math.prod(shape), math.prod(space.get(key, ()))
        if part and whole > part and whole % part == 0:
            return f"; were frames stacked after normalising? then give --frame-stack {whole // part}"
    return ""


def _say(shapes: Shapes) -> str:
    return ", ".join(f"{key or 'observation'} {shape}" for key, shape in shapes.items())


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
