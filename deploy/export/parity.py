"""Proof that an exported graph computes what its torch original computes, on random and edge inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

Arrays = Mapping[str, np.ndarray]


class ParityError(ValueError):
    """The exported graph and its original disagree."""


class OutputParity(msgspec.Struct, frozen=True, kw_only=True):
    """Worst disagreement of one output over all cases, and how far its values spread (0: it ignores the input)."""

    max_abs_error: float
    max_excess: float  # largest |error| / (atol + rtol * |reference|); at most 1 passes
    spread: float


class ParityResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of ``check_parity``; goes into ``bundle.json`` by ``to_meta``."""

    cases: int
    provider: str
    atol: float
    rtol: float
    outputs: dict[str, OutputParity]
    may_be_constant: tuple[str, ...] = ()

    @property
    def max_abs_error(self) -> float:
        """Largest over all outputs."""
        return max((o.max_abs_error for o in self.outputs.values()), default=0.0)

    @property
    def passed(self) -> bool:
        """Every output within tolerance in every case, and every output varies with the input unless it need not."""
        return bool(self.outputs) and not self._find_bad()

    def to_meta(self) -> dict[str, Any]:
        """For ``BundleMeta.parity``."""
        return {"passed": self.passed, "max_abs_error": self.max_abs_error, **msgspec.to_builtins(self)}

    def raise_if_failed(self) -> ParityResult:
        """Return self, or raise ParityError that names the outputs and figures."""
        if self.passed:
            return self
        bad = [
            f"{name}: max |error| {o.max_abs_error:.3g}, {o.max_excess:.3g} times the tolerance, spread {o.spread:.3g}"
            for name, o in self._find_bad().items()
        ]
        raise ParityError(
            f"export differs from its original over {self.cases} cases: " + "; ".join(bad or ["no outputs"])
        )

    def _find_bad(self) -> dict[str, OutputParity]:
        free = self.may_be_constant
        found = self.outputs.items()
        return {name: o for name, o in found if o.max_excess > 1.0 or (o.spread <= 0.0 and name not in free)}


class Runs(Protocol):
    """What is compared with the original: a ``Session``, or something that runs like one."""

    provider: str

    def run(self, inputs: Arrays) -> Arrays:
        """Arrays by input name -> arrays by output name."""
        ...


def check_parity(
    torch_fn: Callable[[Arrays], Arrays],
    session: Runs,
    cases: Iterable[Arrays],
    *,
    atol: float = 1e-4,
    rtol: float = 1e-3,
    may_be_constant: tuple[str, ...] = (),
) -> ParityResult:
    """Compare ``torch_fn`` (arrays by input name -> arrays by output name) with ``session`` on every case.

    Give random and edge inputs, not zeros alone. Integer and boolean outputs must be equal; a value that is not finite
    on one side only, or another shape, counts as an infinite error. An output that is the same over all cases fails,
    unless it is named in ``may_be_constant``.
    """
    error: dict[str, float] = {}
    excess: dict[str, float] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    count = 0
    for case in cases:
        count += 1
        expected = torch_fn(case)
        found = session.run(case)
        if set(expected) != set(found):
            raise ParityError(f"outputs: expected {sorted(expected)}, got {sorted(found)}")
        for name, reference in expected.items():
            absolute, relative = _compare(np.asarray(reference), found[name], atol, rtol)
            error[name] = max(error.get(name, 0.0), absolute)
            excess[name] = max(excess.get(name, 0.0), relative)
            finite = found[name][np.isfinite(found[name])]
            if finite.size:
                low[name] = min(low.get(name, np.inf), float(finite.min()))
                high[name] = max(high.get(name, -np.inf), float(finite.max()))
    outputs = {
        name: OutputParity(
            max_abs_error=error[name], max_excess=excess[name], spread=high.get(name, 0.0) - low.get(name, 0.0)
        )
        for name in error
    }
    return ParityResult(
        cases=count,
        provider=session.provider,
        atol=atol,
        rtol=rtol,
        outputs=outputs,
        may_be_constant=may_be_constant,
    )


def _compare(reference: np.ndarray, found: np.ndarray, atol: float, rtol: float) -> tuple[float, float]:
    if reference.shape != found.shape:
        return float("inf"), float("inf")
    if reference.size == 0:
        return 0.0, 0.0
    if reference.dtype.kind in "iub":
        difference = np.abs(reference.astype(np.int64) - found.astype(np.int64))
        return float(difference.max()), float("inf") if difference.any() else 0.0
    a, b = reference.astype(np.float64), found.astype(np.float64)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)  # equal infinities too
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
        ratio = difference / (atol + rtol * np.abs(np.where(same, 0.0, a)))
    difference, ratio = (np.where(np.isnan(v), np.inf, v) for v in (difference, ratio))
    return float(difference.max()), float(ratio.max())
