"""Write the table of results in README.md from the files under ``results/``, and say what misses its bar.

python benchmarks/readme.py            # rewrite the table
python benchmarks/readme.py --check    # exit code 1 when README.md does not say what the files say
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from visuomotor.launch.evaluate.score import Score, load_score, paired_by_seed, paired_ratio
from visuomotor.launch.evaluate.statistics import Estimate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
START, END = "<!-- results: written by benchmarks/readme.py -->", "<!-- end of results -->"


class Row(NamedTuple):
    """One line of the table."""

    part: str
    measured: str
    bar: str
    met: bool
    source: str


def read(name: str) -> Any:
    """A result file; an empty one when it is not there, so that a row can be left out."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def suite(name: str, folder: str = "suite") -> Score | None:
    """A row of the suite of driving, or of another folder, where it was run."""
    path = RESULTS / folder / f"{name}.json"
    return load_score(path) if path.exists() else None


def of(data: Any, key: str) -> Estimate:
    """The estimate under a key of a file."""
    return Estimate(**data[key])


def training() -> Iterator[Row]:
    if not (data := read("policy_training.json")):
        return
    minutes, success = data["minutes"], data["metrics"]["tune_success_truth"]
    first, last = data["tuning"]["seeds"]
    yield Row(
        f"a policy's training from nothing in one run: minutes; success on truth, {last - first} tuning cases",
        f"{minutes:.0f}; {100 * success:.1f} %",
        "90; 92 %",
        minutes <= 90.0 and success >= 0.92,
        "`visuomotor train policy --task drive` → `policy_training.json`",
    )


def detector() -> Iterator[Row]:
    if not (data := read("detector.json")):
        return
    summary = data["scores"]["summary"]
    command = "`python benchmarks/detector.py` → `detector.json`"
    ap50, ap = of(summary, "ap50"), of(summary, "ap50_95")
    yield Row(
        f"detector, {ap50.n} images of evaluation looks and seeds: AP50; AP50:95, macro over five classes",
        f"{ap50.as_number(3)}; {ap.as_number(3)}",
        "0.85; 0.55",
        ap50.mean >= 0.85 and ap.mean >= 0.55,
        command,
    )
    lateral, range_ = of(summary, "position_lateral_median_m"), of(summary, "position_range_median_m")
    wall = data["latency_one_thread_ms"]["drive-detector-front"]["wall_p50"]
    yield Row(
        "its positions within 30 m, median: lateral; range. One front frame on one thread, p50",
        f"{lateral.mean:.3f} m; {range_.mean:.2f} m. {wall:.1f} ms",
        "0.3 m; max(0.5 m, 5 %). 10 ms",
        bool(data["bars_met"]["position_lateral_median_m"] and data["bars_met"]["position_range_excess_median"])
        and wall <= 10.0,
        command,
    )


def tracker() -> Iterator[Row]:
    for name, what in (("tracker_rendered.json", "the real detector's"), ("tracker.json", "simulated")):
        if not (data := read(name)):
            continue
        ours, sort = data["tracker"], data["sort"]
        yield Row(
            f"tracker on {what} detections, {ours['episodes']} episodes: MOTA; IDF1 (plain SORT on the same)",
            f"{ours['mota']:.2f} ({sort['mota']:.2f}); {ours['idf1']:.2f} ({sort['idf1']:.2f})",
            "not below SORT",
            ours["mota"] >= sort["mota"] and ours["idf1"] >= sort["idf1"],
            f"`python -m visuomotor.perception.train.tracking_eval` → `{name}`",
        )


def forecaster() -> Iterator[Row]:
    if data := read("forecaster.json"):
        found = data["forecasters"]
        kinds = [k for k in ("lane_change", "brake", "crossing", "straight", "static") if k in found["lstm"]]
        values = {k: [found[name][k]["min_fde_m"]["mean"] for name in ("lstm", "cv", "kalman")] for k in kinds}
        yield Row(
            "forecaster, minFDE of six futures at 3 s, in m: LSTM (constant velocity, Kalman)",
            "; ".join(f"{k.replace('_', ' ')} {v[0]:.2f} ({v[1]:.2f}, {v[2]:.2f})" for k, v in values.items()),
            "below both on manoeuvres, on straight at most 5 % above",
            all(v[0] <= min(v[1:]) * (1.05 if k == "straight" else 1.0) for k, v in values.items() if k != "static"),
            "`visuomotor eval forecaster` → `forecaster.json`",
        )
    if data := read("eth_ucy.json"):
        m = data["mean"]["windows with at least 2 complete pedestrians"]
        yield Row(
            "the same network on ETH/UCY, leave one scene out: mean ADE / FDE (constant velocity on the same windows)",
            f"{m['ade_m']:.3f} / {m['fde_m']:.3f} m ({m['cv_ade_m']:.3f} / {m['cv_fde_m']:.3f})",
            "below 0.53 / 1.15 m",
            m["ade_m"] < min(m["cv_ade_m"], 0.53) and m["fde_m"] < min(m["cv_fde_m"], 1.15),
            "`python -m visuomotor.perception.train.eth_ucy` → `eth_ucy.json`",
        )


def driving() -> Iterator[Row]:
    source = "`python benchmarks/drive_suite.py` → `drive_suite.md`"
    real, idm, truth = suite("policy_real"), suite("idm_real"), suite("policy_truth")
    if real:
        success, collision = real.summary["success"], real.summary["collision"]
        yield Row(
            f"the whole stack on real perception, {success.n} evaluation seeds: success; episodes with a collision",
            f"{success.as_percent()}; {collision.as_percent()}",
            "85 %; 5 %",
            success.mean >= 0.85 and collision.mean <= 0.05,
            source,
        )
    if real and idm:
        success, speed = (paired_by_seed(real, idm, key) for key in ("success", "mean_speed_mps"))
        yield Row(
            f"minus IDM + MOBIL on the same perception ({idm.summary['success'].as_percent()}), {success.n} seeds",
            f"{success.as_points()} points; {speed.as_number()} m/s",
            "not worse, not slower",
            success.mean >= 0.0 and speed.mean >= 0.0,
            source,
        )
    if truth:
        success = truth.summary["success"]
        yield Row(
            f"the same policy on truth, {success.n} seeds", success.as_percent(), "92 %", success.mean >= 0.92, source
        )
    rows = [(name, score) for name in ("idm_truth", "policy_blind", "random_truth") if (score := suite(name))]
    if len(rows) == 3:
        idm_, blind, random = (score.summary["success"] for _, score in rows)
        yield Row(
            "the suite is hard enough: IDM + MOBIL on truth; the policy blind; random",
            "; ".join(f"{100 * s.mean:.0f} % of {s.n}" for s in (idm_, blind, random)),
            "70 to 95 %; 30 %; about 0",
            0.7 <= idm_.mean <= 0.95 and blind.mean <= 0.3 and random.mean <= 0.05,
            source,
        )
    if real and (alone := suite("policy_real_no_guard")):
        gain = paired_by_seed(real, alone, "success")
        yield Row(
            f"the guard: share of ticks on which it acts; success with it minus without, {gain.n} seeds",
            f"{100 * real.guard_tick_share:.2f} %; {gain.as_points()} points",
            "2 %; 5 points",
            real.guard_tick_share <= 0.02 and abs(gain.mean) <= 0.05,
            source,
        )
    if data := read("error_model.json"):
        under = of(data["rows"]["policy_errors"], "success")
        named = {k.split(" - ")[1]: Estimate(**v) for k, v in data["paired"].items() if k.startswith("policy")}
        # Like with like: the model's environment has no guard.
        if alike := named.get("policy_real_no_guard"):
            yield Row(
                f"the policy under the perception error model, {under.n} seeds; minus real perception, "
                f"no guard in either, {alike.n} seeds",
                f"{under.as_percent()}; {alike.as_points()} points",
                "within 5 points",
                abs(alike.mean) <= 0.05,
                "`python benchmarks/error_model.py` → `error_model.json`",
            )


def running() -> Iterator[Row]:
    if data := read("realtime.json"):
        ends = data["latency_ms"]["camera_to_command"]
        rate = data["rate_hz"]["command"]
        yield Row(
            f"realtime on 2 cores, {len(data['episodes'])} run(s): rate; missed deadlines; camera to command p50 / p99",
            f"{rate:.1f} Hz; {100 * data['missed_deadlines']:.1f} %; {ends['p50']:.0f} / {ends['p99']:.0f} ms",
            "10 Hz; 2 %; p99 100 ms",
            rate >= 9.9 and data["missed_deadlines"] <= 0.02 and ends["p99"] < 100.0,
            "`visuomotor launch drive --clock realtime` → `realtime.json`",
        )
    if data := read("bus.json"):
        ratios = [
            data["runs"][run]["ratio_to"][raw]["p50"]
            for run in ("back_to_back", "every_10_ms")
            for raw in ("raw_pyzmq", "raw_pyzmq_no_copy")
        ]
        yield Row(
            "bus, 640x384 frame, p50 beside pyzmq's `send`, `copy=False`: back to back; every 10 ms",
            f"{ratios[0]:.2f} x, {ratios[1]:.2f} x; {ratios[2]:.2f} x, {ratios[3]:.2f} x",
            "1.5 x",
            max(ratios) <= 1.5,
            "`python benchmarks/bus.py` → `bus.json`",
        )
    if data := read("environment.json"):
        found = data["environments"]
        ours = max((n for n in found if n.startswith("visuomotor")), key=lambda n: found[n]["steps_per_s"])
        others = "; ".join(f"{n} {found[n]['steps_per_s']:.0f}" for n in found if not n.startswith("visuomotor"))
        yield Row(
            f"environment steps/s in one process: {ours} worlds, {found[ours]['agents']:.0f} others; {others}",
            f"{found[ours]['steps_per_s']:,.0f}",
            "2,000",
            found[ours]["steps_per_s"] >= 2000 and found[ours]["agents"] >= 12,
            "`python benchmarks/environment.py` → `environment.json`",
        )


def safety() -> Iterator[Row]:
    if data := read("guard.json"):
        found, mutants = data["coverage"], data.get("mutation", {})
        yield Row(
            f"the safety layer under its tests: {found['lines']} lines; {found['branches']} branches",
            f"{found['line_percent']:.1f} %; {found['branch_percent']:.1f} %",
            "100 %; 100 %",
            found["line_percent"] == found["branch_percent"] == 100.0,
            "`python benchmarks/guard.py coverage` → `guard.json`",
        )
        if mutants:
            yield Row(
                f"its mutants: run, of {mutants['mutants']}; survivors",
                f"{mutants['run']}; {mutants['survived']}",
                "all; 3",
                mutants["run"] == mutants["mutants"] and mutants["survived"] <= 3,
                "`python benchmarks/guard.py mutants` → `guard.json`",
            )
    if data := read("faults.json"):
        rows = data["table"]
        bad = {key: sum(row[key] for row in rows) for key in ("hit", "late", "hangs", "orphans", "left", "wrong_exit")}
        kinds = {row["row"] for row in rows} - {"none", "none_can"}
        fewest = min(
            max(row["runs"] for row in rows if row["row"] == kind) for kind in kinds
        )  # in its better-run clock
        yield Row(
            f"{len(kinds)} faults in 15 s of driving, {sum(row['runs'] for row in rows)} runs, at least {fewest} of "
            "each: collisions that the fault caused; late stops; hangs; orphans; leftovers; wrong exit codes",
            "; ".join(str(value) for value in bad.values()),
            "0, 20 runs of each",
            not any(bad.values()) and fewest >= 20,
            "`python benchmarks/faults.py` → `faults.json`",
        )
    if data := read("soak.json"):
        slope = data["total_uss_mb_slope"]
        yield Row(
            f"{data['minutes']:.0f} minutes of realtime driving: memory's slope, MB/min; least mean rate",
            f"{slope['per_min']:.2f} [{slope['low']:.2f}, {slope['high']:.2f}]; "
            f"{min(rate['mean'] for rate in data['rates_hz'].values()):.1f} Hz",
            "1; 9.8 Hz; no queue grows",
            all(data["verdict"].values()),
            "`python benchmarks/soak.py` → `soak.json`",
        )
    if data := read("fuzz.json"):
        whole, wire = data["whole"], data["targets"]["wire"]
        yield Row(
            f"hostile inputs to {len(data['targets'])} readers, {wire['inputs']:,} of them to the wire: inputs; "
            "failures; memory",
            f"{whole['inputs']:,}; {whole['failed']}; {whole['peak_mb']:.0f} MB",
            "1,000,000; 0; bounded",
            whole["inputs"] >= 1_000_000 and whole["failed"] == 0,
            "`python benchmarks/fuzz.py` → `fuzz.json`",
        )


def vehicle() -> Iterator[Row]:
    if data := read("latency.json"):
        ratios = data["runs"]["drive-detector-front, 1 thread(s)"]["ratios"]
        faster, wrapper = ratios["torch best / visuomotor"], ratios["visuomotor / onnxruntime"]
        yield Row(
            "detector on one CPU thread, p50: torch's best setting to ours; ours to bare ONNX Runtime",
            f"{faster:.2f} x; {wrapper:.2f} x",
            "1.5 x; 1.05 x",
            faster >= data["bars"]["faster"] and wrapper <= data["bars"]["overhead"],
            "`python benchmarks/latency.py` → `latency.json`",
        )
    if data := read("precision.json"):
        found = {name: kinds["int8"] for name, kinds in data["detectors"].items() if name.startswith("drive-")}
        yield Row(
            f"detectors in INT8 on the CPU ({', '.join(name.removeprefix('drive-detector-') for name in found)}): "
            "faster by; AP points lost",
            "; ".join(f"{f['time']['ratio']:.2f} x, {f['larger_loss_points']:.2f}" for f in found.values()),
            "1.3 x, 1 point",
            all(f["bar_met"] for f in found.values()),
            "`python benchmarks/precision.py` → `precision.json`",
        )
    if (data := read("gpu.json")) and not data["dry_run"]:
        front = next(n for n in data["networks"] if n["bundle"] == "drive-detector-front" and n["device"] == "cuda")
        ways = {way["way"]: way["latency_ms"] for way in front["ways"]}
        graph, bound = ways["visuomotor cuda graph"], ways["visuomotor"]
        best = min((run["frame_to_command_ms"]["p99"] for run in data["path"]["runs"] if "error" not in run), default=0)
        path = f"{best:.1f} ms" if best else "not measured whole; perception alone takes longer in `gpu_drive.json`"
        yield Row(
            f"on an {data['provenance']['gpu']['gpu']}: front detector p50 / p99 with a CUDA graph, without; frame to "
            "command of three cameras, p99",
            f"{graph['p50']:.1f} / {graph['p99']:.1f}, {bound['p50']:.1f} / {bound['p99']:.1f} ms; {path}",
            "5 ms",
            0.0 < best < data["path"]["bar_p99_ms"],
            "`benchmarks/gpu.sh` → `gpu.json`",
        )
    if data := read("recording.json"):
        cost = sum(pair["whole_run_percent"] for pair in data["rounds"]) / len(data["rounds"])
        yield Row(
            f"what a recording of everything adds to the CPU of a run at 10 Hz, {len(data['rounds'])} rounds",
            f"{cost:.1f} %",
            "10 %",
            cost <= 10.0,
            "`python benchmarks/recording.py` → `recording.json`",
        )
    if data := read("encryption.json"):
        ratio = data["ratios"]["curve_to_tcp_plain"]
        yield Row(
            "keys between hosts, 640x384 frame, beside plain tcp: p50; CPU",
            f"{ratio['p50_ms']:.2f} x; {ratio['cpu_ms']:.2f} x",
            "stated",
            True,
            "`python benchmarks/encryption.py` → `encryption.json`",
        )


def picking() -> Iterator[Row]:
    source = "`python benchmarks/pick_suite.py` → `pick_suite.md`"
    what = {"policy_real": "the learned policy", "scripted_real": "the picker by rules"}
    for name, who in what.items():
        if (score := suite(name, "pick_suite")) is None:
            continue
        binned, wrong = score.summary["parts_binned_share"], score.summary["wrong_parts_share"]
        still = score.summary.get("parts_binned_share, speed 0")
        yield Row(
            f"picking on real perception, {who}, {len(score.episodes)} evaluation shifts: ordered parts binned; on a "
            "standing belt; wrong parts of those binned; guard's ticks",
            f"{binned.as_percent()}; {still.as_percent() if still else 'none'}; {wrong.as_percent()}; "
            f"{100 * score.guard_tick_share:.2f} %",
            "85 %; 95 %; 2 %; 2 %",
            len(score.episodes) >= 100
            and binned.mean >= 0.85
            and still is not None
            and still.mean >= 0.95
            and wrong.mean <= 0.02
            and score.guard_tick_share <= 0.02,
            source,
        )
    real, now, line, unseeing = (
        suite(f"policy_{name}", "pick_suite") for name in ("real", "real_now", "real_cv", "blind")
    )
    if real and (rules := suite("scripted_real", "pick_suite")):
        binned, pace = paired_ratio(real, rules, "parts_binned_share"), paired_by_seed(real, rules, "picks_per_minute")
        yield Row(
            f"the learned policy minus the picker by rules, the same {binned.n} shifts: parts binned; picks a minute",
            f"{binned.as_points()} points; {pace.as_number(2)}",
            "at least as many a minute",
            pace.mean >= 0.0,
            source,
        )
    if real and now and unseeing:
        worth = paired_ratio(real, now, "parts_binned_share")
        beside = f"; constant velocity {paired_ratio(real, line, 'parts_binned_share').as_points()}" if line else ""
        blind = unseeing.summary["parts_binned_share"]
        fast = (score.summary["parts_binned_share, speed 0.3"] for score in (real, now))
        yield Row(
            f"what the forecast is worth to it: parts binned minus those with 'where it is now', {worth.n} shifts; at "
            "0.3 m/s with and without; the policy blind",
            f"{worth.as_points()} points{beside}; {', '.join(f'{100 * share.mean:.0f} %' for share in fast)}; "
            f"{100 * blind.mean:.0f} % of {len(unseeing.episodes)}",
            "shown; blind 5 %",
            worth.low > 0.0 and blind.mean <= 0.05,
            source,
        )
    if data := read("pick_environment.json"):
        ratios = data["ratios"]
        bare, gym = (ratios[f"of {name} x {data['cells']}"] for name in ("bare physics", "panda-gym"))
        one = ", ".join(f"{ratios[f'of {name} x 1']:.2f}" for name in ("bare physics", "panda-gym"))
        yield Row(
            f"picking environment, {data['cells']} cells in one process: steps to those of the bare physics; with one "
            f"part to PandaPickAndPlace's (one cell alone: {one})",
            f"{bare:.2f}; {gym:.2f}",
            "0.7; 1",
            bare >= 0.7 and gym >= 1.0,
            "`python benchmarks/pick_environment.py` → `pick_environment.json`",
        )


SECTIONS: tuple[Callable[[], Iterator[Row]], ...] = (
    driving,
    picking,
    training,
    detector,
    tracker,
    forecaster,
    running,
    safety,
    vehicle,
)


def table() -> str:
    """The table in Markdown."""
    lines = ["| part | measured | to reach | | from (`benchmarks/results/`) |", "|---|---|---|---|---|"]
    for section in SECTIONS:
        for row in section():
            lines.append(
                f"| {row.part} | {row.measured} | {row.bar} | {'met' if row.met else '**missed**'} | {row.source} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 when README.md is stale")
    options = parser.parse_args()
    text = README.read_text()
    if START not in text or END not in text:
        raise SystemExit(f"{README}: expected the lines {START} and {END}")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    fresh = f"{before}{START}\n\n{table()}\n\n{END}{after}"
    if options.check:
        if fresh != text:
            print(f"{README}: not what benchmarks/results says; run python benchmarks/readme.py", file=sys.stderr)
        return int(fresh != text)
    README.write_text(fresh)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
