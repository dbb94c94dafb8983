"""Where networks can run, and the bundles that shall."""

from __future__ import annotations

import onnxruntime

from visuomotor.deploy.runtime.bundle import BundleError, Kind, load_bundle
from visuomotor.deploy.runtime.device import PROVIDERS, find_obstacle
from visuomotor.launch.checks.examination import Check, Place
from visuomotor.launch.profile import BASELINE_FORECASTERS, Profile, load_profile
from visuomotor.launch.tasks import DEFAULT


def check_devices(place: Place) -> list[Check]:
    """CPU, CUDA, TensorRT: whether a network can run there, and why not."""
    wanted = place.profile.device if place.profile is not None else "auto"
    offered = onnxruntime.get_available_providers()
    checks = []
    for device, provider in PROVIDERS.items():
        obstacle = find_obstacle(device)
        if not obstacle:
            found = f"{provider} of {onnxruntime.__version__}" if provider in offered else f"no {provider}"
            checks.append(Check(device, "ok" if provider in offered else "bad", found))
            continue
        if wanted == device:
            do = f"the profile asks for {device}: see to it, or set device: auto"
            checks.append(Check(device, "bad", obstacle, do))
        else:
            do = "nothing, if networks shall run on the CPU" if wanted in ("auto", "cpu") else ""
            checks.append(Check(device, "note", obstacle, do))
    return checks


def check_models(place: Place) -> list[Check]:
    """Every bundle of the profile (or of the shipped one that is run when none is named), by its hashes."""
    profile = place.profile or load_profile(DEFAULT.profile)
    checks = []
    for name, kind in _wanted(profile).items():
        try:
            bundle = load_bundle(name, kind)
        except BundleError as error:
            do = "export it again, or fetch it again with its repository (git checkout, git lfs pull)"
            checks.append(Check(f"bundle {name}", "bad", str(error), do))
        else:
            checks.append(Check(f"bundle {name}", "ok", f"{kind}, {bundle.digest[:12]}"))
    return checks


def _wanted(profile: Profile) -> dict[str, Kind]:
    wanted: dict[str, Kind] = {}
    if profile.perception.mode == "real":
        wanted |= dict.fromkeys(profile.perception.detectors.values(), "detector")
    if profile.perception.forecaster not in BASELINE_FORECASTERS:
        wanted[profile.perception.forecaster] = "forecaster"
    if profile.policy not in profile.parts.baseline_policies:
        wanted[profile.policy] = "policy"
    return wanted
