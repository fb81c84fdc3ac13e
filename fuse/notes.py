"""What a run says of itself: notes that a reader must know, missing views, library versions."""

from collections.abc import Iterator, Sequence
from importlib import metadata

from moodfuse.cache.folds import MIN_INNER_GROUPS, can_cross_fit, groups_per_label
from moodfuse.cache.runs import FEW_GROUPS, LEAKY, LEAKY_MARK, UNCALIBRATED
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.protocols import NO_CROSSFIT, views_read
from moodfuse.fuse.repeats import FoldPlans

LIBRARIES = ("moodfuse", "numpy", "scipy", "scikit-learn", "lightgbm", "torch", "torchvision", "av")


def result_notes(cache: FeatureCache, chose: Sequence[bool], *, leaky: bool) -> tuple[str, ...]:
    """What a reader must know of a result; `chose` is whether settings were chosen in every fold, plan by plan."""
    found = [LEAKY_MARK] if leaky else []
    if not chose[0]:
        found.append(FEW_GROUPS if has_few_groups(cache) else UNCALIBRATED)
    if 0 < sum(chose) < len(chose):
        found.append(f"settings were chosen under {sum(chose)} of {len(chose)} fold plans")
    return tuple(found)


def has_few_groups(cache: FeatureCache) -> bool:
    """Whether some class has fewer than 3 groups on the training side of some fold, so that nothing can be chosen."""
    for fold in range(cache.plan.folds):
        kept = groups_per_label(unit for unit in cache.units if cache.plan.assignment[unit.key] != fold)
        if min(kept[label] for label in cache.classes) < MIN_INNER_GROUPS:
            return True
    return False


def missing_views(cache: FeatureCache) -> tuple[tuple[str, ...], ...]:
    """Views that each clip lacks; nothing where every clip has both."""
    if not any(status.missing for status in cache.clips):
        return ()
    return tuple((status.missing,) if status.missing else () for status in cache.clips)


def run_notes(
    cache: FeatureCache, protocol: str, sources: Sequence[str], derived: Sequence[str], *, plans: FoldPlans
) -> Iterator[str]:
    """What a reader must know of a whole run; `derived` are the sources whose logits were fitted."""
    possible = can_cross_fit(cache.plan, cache.clips, views_read(cache, sources))
    if protocol == NO_CROSSFIT and any(cache.recipe(source).sees_labels for source in sources):
        why = "no networks of pair holdouts" if possible else "some class is gone once two folds are left out"
        yield (
            f"no-crossfit ({why}): a head over tuned features trains on rows that its networks saw, and keeps its "
            "default settings"
        )
    fitted = {source: _how_fitted(cache, protocol, source, possible=possible) for source in derived}
    for how in dict.fromkeys(fitted.values()):
        names = ", ".join(source for source in derived if fitted[source] == how)
        yield f"logits of {names}: logistic regression on the embedding, {how}"
    if lacking := sum(bool(status.missing) for status in cache.clips):
        yield f"{lacking} clips lack sound or picture; what they lack was filled in from training folds alone"
    if plans.note:
        yield plans.note


def _how_fitted(cache: FeatureCache, protocol: str, source: str, *, possible: bool) -> str:
    """In whose sample the logits of a source without any were fitted."""
    if protocol == LEAKY:
        return "in sample: LEAKY"
    if protocol == NO_CROSSFIT and cache.recipe(source).sees_labels:
        return "in sample, for its embedding is"
    return "cross-fitted" if possible else "in sample, for too few folds hold every class"


def versions() -> tuple[tuple[str, str], ...]:
    """Installed versions of the libraries that decide a run's numbers; nothing is imported for it."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return tuple(found.items())
