"""The commands: what they take, which functions they call, what they print.

`cli` imports this file only when a command is run: `looktwice --help` need not wait for it.
Whatever takes long to import is imported in the command that uses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from looktwice import config as configuration
from looktwice import launched
from looktwice.errors import RunError, UsageError

DEMO_SOURCE, DEMO_RECIPE = "fashion-mnist-10k", "simclr-tiny"


def _settings_type() -> Any:
    """Derive from `Config` a dataclass of optional flags: None where nothing was typed."""
    groups = []
    for order, (section, kind) in enumerate(configuration.sections().items()):
        group = Group(f"{section}: {kind.__doc__}", sort_key=10 + order)
        fields = [
            (entry.name, _flag_type(f"{section}.{entry.name}", entry, group), None)
            for entry in dataclasses.fields(kind)
        ]
        partial: Any = dataclasses.make_dataclass(
            f"{section.title()}Flags", fields, frozen=True, namespace={"__module__": __name__}
        )
        # Without a name of its own: --data would else be all of its section, and refused beside
        # --data.threads.
        flags: Any = Annotated[partial, Parameter(name="*", group=group)]
        groups.append((section, flags, dataclasses.field(default_factory=partial)))
    return dataclasses.make_dataclass(
        "Flags", groups, frozen=True, namespace={"__module__": __name__}
    )


def _flag_type(key: str, entry: dataclasses.Field[Any], group: Group) -> Any:
    kind = configuration.field_type(key)
    limits = configuration.range_text(key)
    text = entry.metadata["text"] + (f" {limits}" if limits else "")
    section, name = key.replace("_", "-").split(".")
    parameter = Parameter(
        name=(f"--{section}.{name}", *entry.metadata["flags"]),
        help=text,
        group=group,
        negative=f"--{section}.no-{name}" if kind is bool else (),
    )
    return Annotated[kind | None, parameter]


if TYPE_CHECKING:
    Flags = Any
else:
    Flags = _settings_type()
_NO_FLAGS = Flags()
Settings = Annotated[Flags, Parameter(name="*")]
Recipe = Annotated[
    str | None, Parameter(alias="-r", help=f"shipped recipe ({configuration.DEFAULT_RECIPE})")
]
ConfigFile = Annotated[
    Path | None, Parameter(help="TOML file over the recipe; config.toml of a run is one")
]
Out = Annotated[
    Path | None, Parameter(alias="-o", help="new folder (runs/RECIPE-001, then 002, …)")
]
Json = Annotated[
    bool, Parameter(name="--json", help="print the result as JSON, progress on standard error")
]
Target = Annotated[str, Parameter(help="run folder, encoder.safetensors, or timm:NAME and others")]
Weights = Annotated[Path | None, Parameter(help="weights of an encoder that is no run's")]
ImageSize = Annotated[
    int | None, Parameter(help="side at which pictures enter such an encoder, pixels")
]
RunFolder = Annotated[Path, Parameter(help="run folder")]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps; auto: the best there is")]
Seed = Annotated[int, Parameter(alias="-s", help="seed of every random choice")]


def _typed(flags: Any) -> dict[str, object]:
    """Return the flags that were typed, by dotted key."""
    return {
        f"{section}.{name}": value
        for section, values in dataclasses.asdict(flags).items()
        for name, value in values.items()
        if value is not None
    }


def _resolved(recipe: str | None, file: Path | None, flags: Any) -> configuration.Config:
    typed = _typed(flags)
    config = configuration.resolve(recipe=recipe, file=file, flags=typed)
    configuration.check_used(config, typed)
    return config


def _finish(result: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    print(json.dumps(result, indent=1) if as_json else "\n".join(lines))


def pretrain(
    *,
    recipe: Recipe = None,
    config: ConfigFile = None,
    out: Out = None,
    print_config: Annotated[bool, Parameter(help="print the configuration and stop")] = False,
    dry_run: Annotated[bool, Parameter(help="build everything, say what it is, stop")] = False,
    json_: Json = False,
    flags: Settings = _NO_FLAGS,
) -> None:
    """Learn an encoder from unlabelled pictures."""
    resolved = _resolved(recipe, config, flags)
    if print_config:
        print(configuration.to_toml(resolved), end="")
        return
    from looktwice import train

    if dry_run:
        plan = train.dry_run(resolved, out)
        _finish({"plan": plan}, [plan], as_json=json_)
        return
    progress = sys.stderr if json_ else sys.stdout
    run = train.start(resolved, out, command=_command(), file=progress)
    _finish({"run": str(run.path)}, _next_commands(run.path), as_json=json_)


def resume(run: RunFolder, /, *, json_: Json = False) -> None:
    """Continue a run to the end it was started for, exactly as if it had not stopped."""
    from looktwice import train

    path = train.resume(run, file=sys.stderr if json_ else sys.stdout).path
    _finish({"run": str(path)}, _next_commands(path), as_json=json_)


def evaluate(
    target: Target,
    /,
    *,
    protocol: Annotated[
        str | None,
        Parameter(
            alias="-p",
            help="standard, knn, linear, linear-fast, finetune, few-label, transfer, supervised, "
            "layers, lost, health (none: the proof that the report shows)",
        ),
    ] = None,
    data: Annotated[
        str | None, Parameter(alias="-d", help="other labelled pictures than the run's")
    ] = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    variant: Annotated[
        str | None, Parameter(help="of linear: simclr, or moco's numbers (simclr)")
    ] = None,
    seeds: Annotated[
        int | None, Parameter(help="repetitions: mean ± sd (few-label: 5, else 1)")
    ] = None,
    epochs: Annotated[
        float | None, Parameter(alias="-e", help="of linear and finetune (as in the paper)")
    ] = None,
    out: Annotated[
        Path | None, Parameter(alias="-o", help="file (TARGET/evaluations/PROTOCOL[-DATA].json)")
    ] = None,
    again: Annotated[bool, Parameter(help="measure anew what is there already")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Prove an encoder: k-NN, linear probe and few labels, beside pixels and the untrained.

    --protocol takes one by name: docs/evaluation.md says what each does.
    """
    from looktwice.evaluate import PROTOCOLS, evaluate_run, evaluate_target, table

    others = (protocol, data, weights, image_size, variant, seeds, epochs, out)
    run = Path(target)
    if run.is_dir() and all(value is None for value in others):  # always measured anew
        result = evaluate_run(run, device=device, seed=seed)
        written = f"written: {run}/evaluation.json"
        _finish(
            result, [table(result), written, f"next: looktwice report {_q(run)}"], as_json=json_
        )
        return
    name = protocol or "standard"
    found = evaluate_target(
        target,
        name,
        data=data,
        weights=weights,
        image_size=image_size,
        out=out,
        again=again,
        device=device,
        seed=seed,
        seeds=seeds,
        epochs=epochs,
        variant=variant,
    )
    kept = "measured before and kept (--again measures anew)" if found.kept else "written"
    lines = [
        PROTOCOLS[name].show(found.result),
        f"{kept}: {found.file}" if found.file else "written nowhere: --out",
    ]
    _finish(found.result, lines, as_json=json_)


def report(
    run: RunFolder,
    /,
    *others: Annotated[Path, Parameter(help="further runs, to compare all with each other")],
    out: Annotated[
        Path | None, Parameter(alias="-o", help="page of a comparison (comparison-001.html, …)")
    ] = None,
    json_: Json = False,
) -> None:
    """Write a run's report, or one that compares several runs: one offline page."""
    if others:
        from looktwice.report.comparison import compare_runs

        page = compare_runs((run, *others), out, command=_command())
    elif out is not None:
        raise UsageError("--out is for comparisons: the report of a run is its report.html")
    else:
        from looktwice.report import report_run

        page = report_run(run)
    _finish({"report": str(page)}, [f"report: {page}"], as_json=json_)


def analyze(
    target: Target,
    /,
    *,
    data: Annotated[
        str | None, Parameter(alias="-d", help="other pictures than the run's, labelled or not")
    ] = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    out: Annotated[
        Path | None, Parameter(alias="-o", help="new folder (RUN/analysis, else analysis-001, …)")
    ] = None,
    count: Annotated[int, Parameter(alias="-n", help="pictures on the map, 8 to 20000")] = 10_000,
    against: Annotated[
        str | None, Parameter(help="another run or encoder, to explain the same pictures")
    ] = None,
    cam: Annotated[
        bool, Parameter(negative="--no-cam", help="explain pictures (needs a feature map)")
    ] = True,
    device: Device = "auto",
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Draw what an encoder makes of pictures: t-SNE, a map to walk through, where it looks."""
    from looktwice.report.analysis import analyze_target

    with contextlib.redirect_stdout(sys.stderr):  # what a foreign encoder's loading says
        page = analyze_target(
            target,
            data=data,
            weights=weights,
            image_size=image_size,
            out=out,
            count=count,
            against=against,
            cam=cam,
            device=device,
            seed=seed,
            command=_command(),
        )
    _finish({"analysis": str(page)}, [f"analysis: {page}"], as_json=json_)


def embed(
    target: Target,
    /,
    *,
    out: Annotated[
        Path, Parameter(alias="-o", help="new file that ends in .parquet, .npy or .csv")
    ],
    data: Annotated[
        str | None, Parameter(alias="-d", help="other pictures than the run's, labelled or not")
    ] = None,
    layers: Annotated[
        str, Parameter(help="h, and of a run also hidden-1, …, z of its projection head: h,z")
    ] = "h",
    dtype: Annotated[str, Parameter(help="float32 or float16")] = "float32",
    weights: Weights = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Write pictures' features to a file; killed and started again, it goes on."""
    from looktwice.embedding import embed_target

    with contextlib.redirect_stdout(sys.stderr if json_ else sys.stdout):
        found = embed_target(
            target,
            out,
            data=data,
            layers=layers.split(","),
            dtype=dtype,
            weights=weights,
            image_size=image_size,
            device=device,
        )
    about = found.about
    said = "there already" if found.kept else "written"
    lines = [f"{said}: {out}: {about.rows:,} pictures, {about.dtype}, {_widths(about.layers)}"]
    if found.bad_files:
        lines.append(f"{about.unreadable:,} could not be read, listed in {found.bad_files}")
    bad = str(found.bad_files) if found.bad_files else None
    result = {"file": str(out), "there_already": found.kept, "bad_files": bad}
    _finish(result | dataclasses.asdict(about), lines, as_json=json_)


def _widths(layers: dict[str, int]) -> str:
    return ", ".join(f"{name} of {width}" for name, width in layers.items())


def search(
    target: Annotated[
        str, Parameter(help="run folder, embedding (.parquet, .npy, .csv), or its .index")
    ],
    /,
    *queries: Annotated[Path, Parameter(help="picture files")],
    count: Annotated[int, Parameter(alias=("-n", "-k"), help="pictures to find for each")] = 10,
    data: Annotated[
        str | None,
        Parameter(alias="-d", help="of a run: other pictures; of an index: where its own are now"),
    ] = None,
    encoder: Annotated[
        str | None, Parameter(help="of an index, the same encoder in another place")
    ] = None,
    weights: Annotated[
        Path | None, Parameter(help="of an index, its foreign encoder's weights in another place")
    ] = None,
    out: Annotated[
        Path | None, Parameter(alias="-o", help="new HTML: an offline page with the pictures")
    ] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Find the pictures most alike to given ones: exact cosine similarity of features."""
    from looktwice.embedding import search_target
    from looktwice.embedding.search import open_pictures
    from looktwice.report import search as shown
    from looktwice.storage import check_new

    if out is not None:
        check_new(out)
    with contextlib.redirect_stdout(sys.stderr if json_ else sys.stdout):
        index, answers = search_target(
            target, queries, encoder=encoder, weights=weights, data=data, k=count, device=device
        )
        result, table = shown.as_json(index, answers), shown.table(index, answers)
        if out is None:
            lines = [table]
        else:
            print(table)  # the page may fail for pictures that have moved
            pictures = open_pictures(index.about, data, searched_by=encoder or target)
            shown.write_search(out, index, answers, pictures, command=_command())
            result, lines = result | {"page": str(out)}, [f"page: {out}"]
    _finish(result, lines, as_json=json_)


def export(
    target: Annotated[str, Parameter(help="run folder, encoder.safetensors, or timm:NAME")],
    /,
    *,
    to: Annotated[
        str, Parameter(help="safetensors, timm, torchvision, program, onnx, hf: docs/export.md")
    ],
    out: Annotated[Path, Parameter(alias="-o", help="new file; for timm and hf a new folder")],
    json_: Json = False,
) -> None:
    """Write an encoder for other tools, preprocessing included."""
    from looktwice.export import export_encoder

    with contextlib.redirect_stdout(sys.stderr):  # what a foreign encoder's loading says
        path = export_encoder(target, to, out)
    _finish({"export": str(path), "format": to}, [f"{to}: {path}"], as_json=json_)


def preview(
    *,
    recipe: Recipe = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        Parameter(alias="-o", help="new PNG or HTML, the other beside it (preview-001, …)"),
    ] = None,
    count: Annotated[int, Parameter(alias="-n", help="pictures")] = 8,
    epoch: Annotated[int, Parameter(help="epoch whose views are drawn")] = 0,
    operations: Annotated[
        bool, Parameter(help="every operation at several strengths, on one picture")
    ] = False,
    json_: Json = False,
    flags: Settings = _NO_FLAGS,
) -> None:
    """Draw pictures, their crop boxes and the views that come out: a PNG and an offline page."""
    from looktwice.report import operations_file, preview_file

    resolved = _resolved(recipe, config, flags)
    picture, page = (
        operations_file(resolved, out)
        if operations
        else preview_file(resolved, out, count=count, epoch=epoch)
    )
    lines = [f"preview: {picture}", f"page:    {page}"]
    _finish({"preview": str(picture), "page": str(page)}, lines, as_json=json_)


def demo(
    *,
    out: Out = None,
    minutes: Annotated[
        float | None, Parameter(alias="-m", help="minutes of training (1.5)")
    ] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Train, prove and report on the pictures that come with looktwice."""
    from looktwice import train
    from looktwice.evaluate import evaluate_run, table
    from looktwice.report import report_run

    length = {} if minutes is None else {"train.minutes": minutes}
    flags = {"data.source": DEMO_SOURCE, "train.seed": seed, **length}
    resolved = configuration.resolve(recipe=DEMO_RECIPE, flags=flags)
    progress = sys.stderr if json_ else sys.stdout
    run = train.start(resolved, out, command=_command(), file=progress).path
    result = evaluate_run(run, seed=seed)
    print(table(result), file=progress)
    page = report_run(run)
    lines = [
        f"encoder: {run}/encoder.safetensors",
        f"views:   {run}/figures/views.png",
        f"report:  {page}",
    ]
    _finish({"run": str(run), "report": str(page), **result}, lines, as_json=json_)


def study(
    name: Annotated[
        str | None, Parameter(help="shipped study, or a TOML file of one's own (none: list them)")
    ] = None,
    /,
    *,
    seeds: Annotated[int, Parameter(help="seeds 0, 1, …, the same for every variant")] = 3,
    jobs: Annotated[
        int, Parameter(alias="-j", help="runs at once, which share the cores; costs need 1")
    ] = 1,
    shard: Annotated[
        str | None, Parameter(help="i/n: the i-th of n shares, for n machines with one --out")
    ] = None,
    recipe: Annotated[
        str | None, Parameter(alias="-r", help=f"policy's to start from ({DEMO_RECIPE})")
    ] = None,
    paper: Annotated[bool, Parameter(help="in the size of its source")] = False,
    out: Annotated[
        Path | None, Parameter(alias="-o", help="folder of all studies and their runs (studies)")
    ] = None,
    json_: Json = False,
    flags: Settings = _NO_FLAGS,
) -> None:
    """Make the runs of a study that are missing, and put all into one table and page.

    --minutes: after which no run is begun. The study policy searches, for that long in all (60).
    """
    from looktwice import study as studies
    from looktwice.report.study import write_study

    if name is None:
        titles = {known: studies.open_study(known).title for known in studies.study_names()}
        titles["policy"] = "Which augmentation for these pictures? Searched for --minutes"
        _finish(titles, [f"{known:22}{said}" for known, said in titles.items()], as_json=json_)
        return
    settings = _typed(flags)
    data = str(settings.pop("data.source", "")) or None
    budget = float(str(settings.pop("train.minutes", 0))) or None
    if "train.seed" in settings:
        raise UsageError("study: give the number of --seeds, not one --seed")
    if name == "policy":
        _search_policy(recipe, data, budget, jobs, out, settings, as_json=json_)
        return
    opened = studies.open_study(name, paper=paper)
    plan = studies.plan(opened, data=data, seeds=seeds, jobs=jobs, folder=out, settings=settings)
    progress = sys.stderr if json_ else sys.stdout
    failed = studies.run_study(plan, jobs=jobs, share=shard, minutes=budget, file=progress)
    results = studies.read_results(plan, timed=jobs == 1)
    studies.write_results(results, plan.folder)
    if failed and not results.rows:
        raise RunError(
            f"no run of the study could be made; the first: {next(iter(failed.values()))}"
        )
    lines = [studies.table(results), *(f"failed: {run}: {why}" for run, why in failed.items())]
    if results.rows:
        page = write_study(results, plan, command=_command())
        lines.append(f"report: {page}")
    _finish(studies.as_json(results), lines, as_json=json_)


def _search_policy(
    recipe: str | None,
    data: str | None,
    minutes: float | None,
    jobs: int,
    out: Path | None,
    settings: dict[str, object],
    *,
    as_json: bool,
) -> None:
    from looktwice.report.study import write_study
    from looktwice.study import DEFAULT_FOLDER, Search

    if data is None:
        raise UsageError("study policy: no pictures named; give --data FOLDER or NAME")
    found = Search(
        recipe=recipe or DEMO_RECIPE,
        data=data,
        minutes=60 if minutes is None else minutes,
        folder=out or DEFAULT_FOLDER,
        jobs=jobs,
        settings=settings,
        file=sys.stderr if as_json else sys.stdout,
    ).run()
    result = {"found": found.name, "sentence": found.sentence, "policy": found.policy}
    lines = [found.sentence, found.policy.strip(), f"recipe: {found.recipe}"]
    if found.proof is not None:
        plan, results = found.proof
        lines.append(f"report: {write_study(results, plan, command=_command(), search=found)}")
    _finish(result | {"recipe": str(found.recipe)}, lines, as_json=as_json)


def doctor(
    *,
    equivalence: Annotated[
        bool,
        Parameter(help="measure whether layouts give equal gradients: a sample, half a minute"),
    ] = False,
    whole: Annotated[
        bool, Parameter(help="all of that: every method, optimiser and layout; some minutes")
    ] = False,
    json_: Json = False,
) -> None:
    """Say what this machine is, how fast it is, and what to mend; or check its gradients."""
    from looktwice import doctor

    if not (equivalence or whole):
        found = doctor.examine()
        _finish(found, doctor.lines(found), as_json=json_)
        return
    measured = []
    for difference in doctor.differences(whole=whole):
        measured.append(difference)
        if not json_:
            print(doctor.difference_line(difference), flush=True)
    verdict, holds = doctor.verdict(measured), all(d.holds for d in measured)
    records = [doctor.difference_record(difference) for difference in measured]
    if json_ or holds:
        result = {"holds": holds, "verdict": verdict, "layouts": records}
        _finish(result, [verdict], as_json=json_)
    if not holds:
        raise RunError(verdict)


DataRoot = Annotated[
    Path | None, Parameter(help="folder that holds named data sets ($LOOKTWICE_DATA)")
]
Download = Annotated[bool, Parameter(help="fetch a named data set that is not on this machine")]


def data_pack(
    source: Annotated[str, Parameter(help="pictures, as --data of pretrain takes them")],
    out: Annotated[Path, Parameter(help="new folder")],
    /,
    *,
    as_: Annotated[
        Literal["shards", "array", "folder"],
        Parameter(name="--as", help="tar shards, one array (.npy), or a folder a class"),
    ] = "shards",
    size: Annotated[
        int | None, Parameter(help="of an array: side that all are brought to, pixels")
    ] = None,
    shard_mb: Annotated[int, Parameter(help="pictures in a shard, MB")] = 256,
    data_root: DataRoot = None,
    download: Download = False,
    json_: Json = False,
) -> None:
    """Write pictures as tar shards, one array or a folder of classes, all of them or nothing."""
    from looktwice.data.open import open_official
    from looktwice.data.pack import pack

    official = open_official(source, root=data_root, download=download)
    packed = pack(official, out, form=as_, size=size, shard_bytes=shard_mb << 20)
    counts = ", ".join(f"{count:,} {split}" for split, count in packed.counts.items())
    left = [f"left out {len(packed.bad):,} bad files, such as:"] if packed.bad else []
    left += [f"    {name!r}: {why}" for name, why in [*packed.bad.items()][:10]]
    result = {"folder": str(out), "pictures": dict(packed.counts), "bad": dict(packed.bad)}
    _finish(result, [f"packed {counts} into {_q(out)}", *left], as_json=json_)


def data_check(
    source: Annotated[str, Parameter(help="pictures, as --data of pretrain takes them")],
    /,
    *,
    against: Annotated[
        str | None, Parameter(help="other pictures, which should not be among these")
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    json_: Json = False,
) -> None:
    """Say what pictures there are, which are bad, and which are there twice."""
    from looktwice.data.check import check
    from looktwice.data.open import open_official

    found = check(
        open_official(source, root=data_root, download=download),
        None if against is None else open_official(against, root=data_root, download=download),
    )
    _finish(found.record(), found.lines(), as_json=json_)


def recipes(name: Annotated[str | None, Parameter(help="recipe to print whole")] = None, /) -> None:
    """List the shipped recipes, or print one."""
    if name is not None:
        print(configuration.recipe_text(name), end="")
        return
    names = configuration.recipe_names()
    width = max(map(len, names)) + 2
    for known in names:
        first = configuration.recipe_text(known).splitlines()[0]
        print(f"{known:{width}}{first.lstrip('# ')}")


def _next_commands(run: Path) -> list[str]:
    from looktwice.run import Run

    if launched.rank():  # the first process prints, and has written the summary
        return []
    labelled = json.loads(Run(run).summary_file.read_text("utf-8"))["labelled"]
    if labelled:
        return [f"next: looktwice eval {_q(run)} && looktwice report {_q(run)}"]
    return [
        f"next: looktwice report {_q(run)}",
        f"with some pictures in one folder a class: looktwice eval {_q(run)} --data FOLDER",
    ]


def _q(path: Path) -> str:
    return shlex.quote(str(path))


def _command() -> str:
    from looktwice.run import command_line

    return command_line()
