"""Markdown account of what a lower precision cost and brought."""

from __future__ import annotations

from typing import Any

from visuomotor.deploy.runtime.bundle import Bundle

LABELS = {"ap50": "AP50", "ap50_95": "AP50:95"}


def write_report(source: Bundle, facts: dict[str, Any]) -> str:
    """``report.md`` of the new bundle."""
    calibration, how, size = facts["calibration"], facts["conversion"], facts["size_bytes"]
    lines = [
        f"# {source.name} in {facts['precision']}",
        "",
        f"**{facts['verdict']['text']}**",
        "",
        f"Made from `{source.name}` (digest {source.digest}), revision {source.meta.code_revision or 'unknown'}; its "
        "training and its own report are there.",
        f"Inputs looked at: {calibration['count']} of {calibration['available']} ({calibration['kind']}, "
        f"`{calibration['source']}`, seed {calibration['seed']}).",
        f"Model: {size['before'] / 1e6:.2f} MB before, {size['after'] / 1e6:.2f} MB after.",
    ]
    if facts["precision"] == "int8":
        figures = ", ".join(f"{name} {value:g} dB" for name, value in calibration["signal_over_error_db"].items())
        lines += [
            f"{how['format']}: activations {how['activations']}; weights {how['weights']}; {how['nodes']} nodes, "
            f"{100.0 * how['work_share']:.1f} % of all multiplications.",
            f"Ranges by {calibration['method']}, the nearest to float on {calibration['held_out']} inputs held out "
            f"(signal over error of the heads: {figures}).",
        ]
    lines += ["", *_describe_loss(facts), "", *_describe_time(facts)]
    return "\n".join(lines) + "\n"


def _describe_loss(facts: dict[str, Any]) -> list[str]:
    if "accuracy" in facts:
        found = facts["accuracy"]
        rows = [
            f"| {label} | {_say(found['before'][key])} | {_say(found['after'][key])} | {_say(found['loss'][key])} |"
            for key, label in LABELS.items()
        ]
        others = {
            "precision": "precision at the thresholds",
            "recall": "recall at the thresholds",
            "lateral_median_m": "lateral error within 30 m, median, m",
            "range_median_m": "range error within 30 m, median, m",
        }
        for key, label in others.items():
            pair = [found[name][key] for name in ("before", "after")]
            if None not in pair:
                rows.append(f"| {label} | {pair[0]:.3f} | {pair[1]:.3f} | |")
        return [
            f"## Accuracy on {found['images']} labelled images",
            "",
            f"Points, 95 % intervals by {found['draws']} draws over images; the loss is paired.",
            "",
            "| | before | after | lost |",
            "|---|---|---|---|",
            *rows,
        ]
    if "difference" in facts:
        found = facts["difference"]
        rows = [
            f"| {name} | {value['max']:.3g} | {value['mean']:.3g} | {value['unit']} |"
            for name, value in found["outputs"].items()
        ]
        return [
            f"## Difference of the outputs on {found['cases']} inputs held out",
            "",
            "| output | largest | mean | one unit is |",
            "|---|---|---|---|",
            *rows,
        ]
    return ["## Accuracy", "", "Not measured: no labels were given. `visuomotor eval detector` measures it."]


def _say(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _describe_time(facts: dict[str, Any]) -> list[str]:
    found = facts["time"]
    keys = ("p50_ms", "p95_ms", "processor_p50_ms")
    times = {name: " | ".join(f"{found[name][key]:.2f}" for key in keys) for name in ("before", "after")}
    rows = [f"| {name} | {said} |" for name, said in times.items()]
    lines = [
        f"## Time on {facts['device']}, one thread",
        "",
        f"{found['runs']} runs of each, taken by turns: {found['ratio']:.2f} x as fast by the clock (median of pairs), "
        f"{found['processor_ratio']:.2f} x by processor time.",
        "",
        "| | p50, ms | p95, ms | processor p50, ms |",
        "|---|---|---|---|",
        *rows,
    ]
    if not facts["verdict"]["worth_it"]:
        lines += ["", f"**Not worth it on {facts['device']}**: {found['ratio']:.2f} x is no gain in time."]
    return lines
