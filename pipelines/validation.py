"""Whether a dataset may be published: what it is like, beside the limits of the spec and an earlier dataset."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.kernels.drift import drift
from pipelines.profiles import sketch_of
from schemas.dataset import Check, DatasetFolder, FeatureProfile, Statistics, Validation
from schemas.errors import DatasetError
from schemas.settings_spec import Checks
from schemas.spec import Spec


def validate(spec: Spec, statistics: Statistics, baseline: DatasetFolder | None) -> Validation:
    """Checks a dataset's statistics.

    Args:
      spec: its `checks` are the limits.
      statistics: of the new dataset.
      baseline: the earlier dataset; None compares with nothing.
    Raises:
      DatasetError: the baseline tells too little to compare with.
    """
    checks = list(_missing(spec.checks, statistics))
    if baseline is None:
        return Validation(baseline=None, checks=tuple(checks))
    if not baseline.statistics.key_profiles:
        raise DatasetError(
            f"{baseline.path}: expected a baseline with profiles, got none; a dataset of spans has them in each span"
        )
    checks += _missing_rise(spec.checks, statistics, baseline.statistics)
    checks += _drift(spec.checks, statistics, baseline.statistics)
    checks += _keys(spec.checks, statistics, baseline.statistics)
    return Validation(baseline=baseline.manifest.fingerprint, checks=tuple(checks))


def failure_lines(validation: Validation) -> list[str]:
    """What did not pass, a line each."""
    return [
        f"{check.name}{f' of {check.feature!r}' if check.feature else ''}: expected at most {check.limit:g}, "
        f"got {check.value:.4g} ({check.detail})"
        for check in validation.failures
    ]


def _missing(limits: Checks, statistics: Statistics) -> Iterator[Check]:
    for name, profile in statistics.profiles.items():
        share = _missing_share(profile)
        detail = f"{profile.missing} of {profile.steps} steps have no observed value"
        yield _check("missing", name, share, limits.max_missing, detail)


def _missing_rise(limits: Checks, statistics: Statistics, baseline: Statistics) -> Iterator[Check]:
    for name, profile in statistics.profiles.items():
        if name in baseline.profiles:
            before, now = _missing_share(baseline.profiles[name]), _missing_share(profile)
            detail = f"from {before:.2%} to {now:.2%} of the steps"
            yield _check("missing_rise", name, max(now - before, 0.0), limits.max_missing_rise, detail)


def _drift(limits: Checks, statistics: Statistics, baseline: Statistics) -> Iterator[Check]:
    for name, counts in statistics.sketches.items():
        if name in baseline.sketches and baseline.sketches[name].bits == counts.bits:
            now, before = sketch_of(counts), sketch_of(baseline.sketches[name])
            detail = f"divergence of {now.size} values from {before.size}"
            yield _check("drift", name, drift(before, now), limits.max_drift, detail)


def _keys(limits: Checks, statistics: Statistics, baseline: Statistics) -> Iterator[Check]:
    now, before = statistics.key_profiles, baseline.key_profiles
    new = [key for key in now if key not in before]
    both = [key for key in now if key in before]
    detail = f"{len(new)} of {len(now)} keys are not in the baseline{_some(new)}"
    yield _check("new_keys", None, len(new) / max(len(now), 1), limits.max_new_keys, detail)
    broken = [key for key in both if now[key].interval_ms != before[key].interval_ms]
    detail = f"{len(broken)} of {len(both)} keys have another time between events{_some(broken)}"
    yield _check("broken_step", None, len(broken) / len(both) if both else 0.0, limits.max_broken_step, detail)


def _missing_share(profile: FeatureProfile) -> float:
    return profile.missing / profile.steps if profile.steps else 0.0


def _some(keys: list[str]) -> str:
    return f" ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})" if keys else ""


def _check(name: str, feature: str | None, value: float, limit: float | None, detail: str) -> Check:
    passed = limit is None or value <= limit
    return Check(name=name, feature=feature, value=value, limit=limit, passed=passed, detail=detail)
