"""What stage one tells the user before it computes: the plan, clips that may be one, weights, time and disk."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from moodfuse.cache.planning import plan_line
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.duplicates import audit_cache, audit_lines
from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import source_weights
from moodfuse.extract.runtime import give_back_freed_memory
from moodfuse.extract.training.estimate import Estimate, is_long, measure

if TYPE_CHECKING:
    from moodfuse.extract.pipeline import ExtractSettings

Say = Callable[[str], None]


def say_plan(cache: FeatureCache, before: dict[str, int], say: Say) -> None:
    """Say what the plan in force holds and, where there was one before, what moved."""
    plan = cache.plan
    say(plan_line(plan, cache.clips))
    if before:
        moved = sum(
            plan.assignment[digest] != fold for digest, fold in before.items() if digest in plan.assignment
        )
        added = len(set(plan.assignment) - set(before))
        if moved or added:
            say(f"plan: {added} clip(s) added, {moved} moved to another fold")


def say_copies(cache: FeatureCache, say: Callable[[str], None]) -> None:
    """Name clips whose files hold the same bytes: no split parts them."""
    copies: dict[str, dict[str, str]] = {}
    for status in cache.clips:
        copies.setdefault(status.file_sha256, {}).setdefault(status.clip.path, status.clip.id)
    for ids in copies.values():
        if len(ids) > 1:
            say(f"the same file {len(ids)} times, so one group: {', '.join(sorted(ids.values()))}")


def say_audit(cache: FeatureCache, say: Say) -> None:
    """Warn of clips of different groups that may be one; what is fine is not said."""
    audit = audit_cache(cache)
    if audit is not None and any(not finding.grouped for finding in audit.findings):
        for line in audit_lines(audit):
            say(f"WARNING {line}" if not line.startswith(" ") else line)


def announce(cache: FeatureCache, settings: "ExtractSettings", todo: Sequence[Work], say: Say) -> None:
    """Say what is left to do, and about how long it takes and how much disk."""
    busy = [item for item in todo if item.trunk or item.networks or item.body]
    if not busy:
        say("nothing to decode, tune or embed: the cache holds every block")
        return
    total = Estimate()
    for item in busy:
        source = item.recipe.source
        if settings.keep_media:
            say_weights([item.recipe], settings, say)
        blocks = f"{len(item.networks)} blocks" if item.recipe.tuning else "one frozen block"
        work = f"{len(item.trunk)} clips to embed, {item.to_tune} networks to tune for {blocks}"
        cost = ""
        if is_long(item) or settings.dry_run:
            estimate = measure(item, settings.recipes.weights_of(source), classes=cache.classes)
            total += estimate
            give_back_freed_memory()
            cost = f": about {estimate.seconds:.0f} s, {estimate.megabytes:.0f} MB"
        say(f"{source} ({item.recipe.depth}): {work}{cost}")
    if total == Estimate():
        return
    tuned = sum(item.to_tune for item in busy)
    under = f" under {settings.networks.repeats} fold plans" if settings.networks.repeats > 1 else ""
    cost = f"about {total.seconds / 60:.1f} minutes, {total.megabytes:.0f} MB of disk"
    say(f"in all {tuned} networks to tune{under}: {cost}")


def say_weights(recipes: Sequence[Recipe], settings: "ExtractSettings", say: Say) -> None:
    """Say which weights the sources start from."""
    for source in (recipe.source for recipe in recipes):
        if facts := source_weights(source, settings.recipes):
            say(f"{source}: weights {facts}")
        else:
            say(
                f"WARNING {source}: no pretrained weights, so it starts from RANDOM values (--weights {source}=FILE)"
            )
