"""The commands `moodfuse extract`, `moodfuse check` and `moodfuse weights`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moodfuse.cache.console import command_line
from moodfuse.cache.terminal import wide_option
from moodfuse.extract.options import add_options, reading_options, reading_rules

if TYPE_CHECKING:
    from moodfuse.extract.settings import ExtractSettings

SOURCE_HELP = (
    "Source to extract: a network (onedmcnn, twodmcnn, c3d, i3d, musicnn, frame-stats, audio-stats, or "
    "one of a library, such as torchvision:NAME; see moodfuse networks), or NETWORK@RECIPE; repeat for "
    "several.  [default: the first four]"
)
_DATA_OPTIONS = (
    click.option(
        "--missing",
        type=click.Choice(["refuse", "impute"]),
        default="refuse",
        show_default=True,
        help="How to handle clips without an audio or video stream.",
    ),
    click.option(
        "--group-pattern",
        metavar="REGEX",
        help="Clips whose path below DATA gives the same match are a group; each clip without a match is "
        "a group of its own.  [default of extract: as in the cache]",
    ),
)


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    """``SOURCE=VALUE`` options as a dict; the key of a value without a source is empty."""
    pairs = {}
    for value in values:
        source, equals, rest = value.partition("=")
        if (equals and not rest) or (not equals and option != "--tune"):
            raise click.BadParameter(
                f"{value!r}; expected SOURCE=VALUE, such as {option} c3d=...", param_hint=option
            )
        pairs[source if equals else ""] = rest if equals else value
    return pairs


class RecipeCommand(click.Command):
    """A command whose help lists the recipes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the recipes that come with the program."""
        from moodfuse.extract.recipe_files import recipe_descriptions

        with formatter.section("Recipes"):
            formatter.write_dl(list(recipe_descriptions().items()))


@click.command("extract", cls=RecipeCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--cache",
    "cache_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Cache folder; created if new.",
)
@click.option("--source", "sources", multiple=True, help=SOURCE_HELP)
@click.option("--folds", type=int, help="Number of folds.  [default: as in the cache, or 6]")
@click.option("--seed", type=int, help="Random seed of the fold plan.  [default: as in the cache, or 0]")
@click.option(
    "--recipe", default="default", show_default=True, help="Recipe by name (see below), or a TOML file."
)
@click.option(
    "--tune",
    multiple=True,
    metavar="[SOURCE=]DEPTH",
    help="How much to tune: frozen, head, last:N (the last N blocks and the head) or full; for all networks, "
    "or for one source; repeat for several.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="SOURCE=WEIGHTS",
    help="Pretrained weights of a source: a name (moodfuse weights ls), file or folder; repeat for several.",
)
@click.option(
    "--frames",
    multiple=True,
    metavar="SOURCE=FRAMES",
    help="Frames that a video source reads: even (over the whole clip; the default), or windows:N[@RATE], N "
    "short windows at RATE frames per second, by default that of the network's training; with ,crops:3 three "
    "crops of each frame. Windows and crops are embedded separately, then averaged. Repeat for several.",
)
@click.option(
    "--device", default="auto", show_default=True, help="Device of the networks: auto, cpu or cuda."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Number format of the networks; auto is fp32.",
)
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile networks for embedding; takes minutes at the start."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="cores",
    help="Decoding processes, and cores for small networks, which are tuned several at a time.",
)
@click.option(
    "--crossfit/--no-crossfit",
    default=True,
    show_default=True,
    help="Also tune a network for every pair of folds, so that heads train on out-of-sample features; 21 "
    "networks for 6 folds instead of 6.",
)
@click.option(
    "--leaky",
    "--for-export",
    "leaky",
    is_flag=True,
    help="Also tune a network on ALL clips, for fuse --protocol leaky and models at the embedding level.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of fold plans to tune under.",
)
@add_options(_DATA_OPTIONS)
@click.option(
    "--keep-media/--no-keep-media",
    default=True,
    show_default=True,
    help="Keep decoded media in the cache (about 4 MB per clip), or pass a clip through all networks.",
)
@click.option(
    "--scheduler", metavar="dask://HOST:PORT", help="Run on a Dask cluster whose workers share the folders."
)
@click.option(
    "--replan", is_flag=True, help="Discard the existing fold plan and assign all clips to folds again."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Decode and plan, print what would be computed, and stop. The cache keeps the clips and the plan.",
)
@click.option("--strict", is_flag=True, help="Fail, and write no features, if any clip is refused.")
@reading_options
@click.pass_context
def extract_command(ctx: click.Context, data: Path, cache_path: Path, **options: Any) -> None:
    """Decode DATA, tune the networks, and store their embeddings in a cache.

    DATA is a folder DATA/<label>/*.mp4, or a CSV with path,label[,group][,fold][,start_s,end_s][,split].

    Example: moodfuse extract clips --cache work
    """
    from moodfuse.cache.run_log import run_log
    from moodfuse.cache.terminal import report
    from moodfuse.extract.pipeline import extract_features

    settings = _settings(data, cache_path, options)
    with run_log(cache_path, settings.command):
        done = extract_features(settings, report=report)
    click.echo(
        f"{len(done.clips)} clips read, {len(done.refused)} refused; {done.tuned} networks tuned, "
        f"{done.embedded} embeddings computed"
    )
    if not settings.dry_run:
        click.echo(f"next: moodfuse fuse --cache {cache_path}")
    if done.refused:
        ctx.exit(3)


def _settings(data: Path, cache_path: Path, options: Mapping[str, Any]) -> "ExtractSettings":
    from moodfuse.cache.folds import PlanChoice
    from moodfuse.extract.recipe_files import RecipeChoice
    from moodfuse.extract.settings import DEFAULT_SOURCES, ExtractSettings, NetworkChoice

    depths = _pairs("--tune", options["tune"])
    recipes = RecipeChoice(
        recipe=options["recipe"],
        depth=depths.pop("", None),
        depths=depths,
        weights=_pairs("--weights", options["weights"]),
        frames=_pairs("--frames", options["frames"]),
        device=options["device"],
        precision=options["precision"],
        compile=options["compiled"],
    )
    return ExtractSettings(
        data=data,
        cache=cache_path,
        sources=options["sources"] or DEFAULT_SOURCES,
        plan=PlanChoice(options["folds"], options["seed"], options["replan"]),
        recipes=recipes,
        networks=NetworkChoice(options["crossfit"], options["leaky"], options["repeats"]),
        impute=options["missing"] == "impute",
        command=command_line(click.get_current_context()),
        rules=reading_rules(options),
        **{name: options[name] for name in ("group_pattern", "jobs", "scheduler", "keep_media")},
        **{name: options[name] for name in ("dry_run", "strict")},
    )


@click.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--folds", type=int, default=6, show_default=True, help="Number of folds of the plan to try.")
@click.option(
    "--audit/--no-audit",
    default=True,
    show_default=True,
    help="Decode clips and compare their audio and frames, or read only headers.",
)
@add_options(_DATA_OPTIONS)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="cores",
    help="Decoding processes.",
)
@reading_options
@click.pass_context
def check_command(ctx: click.Context, data: Path, **options: Any) -> None:
    """Check a dataset before extract: print which clips would be refused and grouped, and which are similar.

    DATA is a folder or a CSV, as for extract. Exits with 3 if any clip would be refused.

    Example: moodfuse check clips
    """
    from moodfuse.cache.terminal import print_lines
    from moodfuse.extract.dataset.check import check

    result = check(
        data,
        decode=options["audit"],
        impute=options["missing"] == "impute",
        rules=reading_rules(options),
        **{name: options[name] for name in ("folds", "group_pattern", "jobs")},
    )
    print_lines(result.lines, wrap=True)
    if result.refused:
        ctx.exit(3)


@click.command("networks")
def networks_command() -> None:
    """List the networks that can be sources, and how to install what is missing.

    Example: moodfuse networks
    """
    from moodfuse.cache.terminal import print_lines
    from moodfuse.extract.networks import list_networks

    print_lines(list_networks(), wrap=True)


@click.group("weights")
def weights_group() -> None:
    """List, fetch and convert pretrained weights.

    Example: moodfuse weights ls
    """


@weights_group.command("ls")
@click.option("--network", help="Only weights for one network, such as c3d or torchvision:r3d_18.")
@click.option("--long", "-l", is_flag=True, help="Also list address, digest, licence and preprocessing.")
@wide_option
def weights_ls_command(network: str | None, long: bool, wide: bool) -> None:
    """List the published weights, and which of them have been fetched.

    Example: moodfuse weights ls --long
    """
    from moodfuse.extract.networks import print_weights

    print_weights(network, long=long, wide=wide)


@weights_group.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def weights_fetch_command(names: tuple[str, ...]) -> None:
    """Download weights by name and check them.

    Weights of torchvision's models are written torchvision:MODEL[=NAME], those of other hubs like the source:
    torchaudio:BUNDLE, timm:MODEL, hf:OWNER/NAME. A broken download resumes when run again.

    Example: moodfuse weights fetch hf:facebook/dinov2-base
    """
    from moodfuse.cache.terminal import print_lines
    from moodfuse.extract.networks import fetch_weights, named_weights
    from moodfuse.extract.recipe_files import RecipeChoice, name_hf_sources, source_weights

    for name, known in [(name, named_weights(name)) for name in names]:
        if known is not None:
            print_lines([f"{known.name}: {fetch_weights(known)} ({known.check})"], wrap=True)
        else:
            (source,), choice = name_hf_sources([name], RecipeChoice())
            facts = source_weights(source, choice)
            assert facts is not None  # a hub's network starts from its weights
            print_lines([f"{name}: {facts.path} (sha256 {facts.sha256})"], wrap=True)


@weights_group.command("convert")
@click.argument("weights", metavar="NAME|FILE")
@click.option("--network", required=True, help="The network of these weights, such as i3d.")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The safetensors file to write."
)
def weights_convert_command(weights: str, network: str, output: Path) -> None:
    """Convert pretrained weights to safetensors.

    The file has moodfuse's own layout, and the provenance of the weights.

    \b
    Example:
      moodfuse weights convert model_rgb.pth --network i3d \\
        --output i3d.safetensors
    """
    from moodfuse.cache.terminal import print_lines
    from moodfuse.extract.networks import convert_weights, create_network

    facts = convert_weights(weights, create_network(network, num_classes=1), output)
    print_lines([f"{output}: {facts}"], wrap=True)
