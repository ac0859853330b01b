"""Tables and verdicts from samples.

A ratio is the median of the ratios within each round: what the machine did in one round fell on both.
"""

import json
import shutil
import statistics

from . import plot
from .profiles import FIGURES, PROFILES

# field: (heading, how it is written)
COLUMNS = {
    "cpu_us": ("CPU us/request", lambda value: f"{value:.1f}"),
    "us_per_mib": ("us/MiB", lambda value: f"{value:.0f}"),
    "per_second": ("requests/s", lambda value: f"{value:.0f}"),
    "p50_us": ("p50 ms", lambda value: f"{value / 1000:.2f}"),
    "p99_us": ("p99 ms", lambda value: f"{value / 1000:.2f}"),
    "late_p99_us": ("generator late, p99 ms", lambda value: f"{value / 1000:.2f}"),
    "rss_mib": ("RSS MiB", lambda value: f"{value:.0f}"),
    "kib_each": ("KiB/connection", lambda value: f"{value:.1f}"),
    "busy": ("its CPU busy", lambda value: f"{value:.0%}"),
    "others": ("others", lambda value: f"{value:.0%}"),
}
# What says nothing in a profile.
LEFT_OUT = {"idle": {"cpu_us", "per_second", "p50_us", "p99_us", "busy"}, "handshakes": {"per_second", "p50_us", "p99_us"}}
RATIOS = ("bare", "nginx", "haproxy", "envoy")


def values(samples, profile, proxy, field):
    """One field of one proxy in all rounds."""
    return [one[field] for one in samples if (one["profile"], one["proxy"]) == (profile, proxy) and one.get(field) is not None]


def median(samples, profile, proxy, field):
    """The median of one field, or None."""
    found = values(samples, profile, proxy, field)
    return statistics.median(found) if found else None


def ratio(samples, profile, proxy, against, field):
    """The median over the rounds of proxy / against in the same round, or None."""
    rounds = {}
    for one in samples:
        if one["profile"] == profile and one[field] is not None:
            rounds.setdefault(one["round"], {})[one["proxy"]] = one[field]
    ratios = [row[proxy] / row[against] for row in rounds.values() if proxy in row and row.get(against)]
    return statistics.median(ratios) if ratios else None


def measured(samples, profile):
    """The proxies of a profile that have samples, in their order."""
    return [proxy for proxy in PROFILES[profile].proxies if values(samples, profile, proxy, "requests")]


def table(samples, profile):
    """The result of one profile as Markdown."""
    one, names = PROFILES[profile], measured(samples, profile)
    left_out = LEFT_OUT.get(one.load.partition("_")[0], set())
    fields = [field for field in COLUMNS if field not in left_out and any(values(samples, profile, name, field) for name in names)]
    if one.size < 100 << 10 and "us_per_mib" in fields:
        fields.remove("us_per_mib")
    against = [name for name in names if name in RATIOS or name in {bar.against for bar in one.bars}]
    heads = ["proxy", *(COLUMNS[field][0] for field in fields), f"{FIGURES[one.figure]}, lowest to highest",
             *(f"of {name}" for name in against)]
    lines = [f"## {profile}", "", one.what, "", "| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for name in names:
        cells = [COLUMNS[field][1](found) if (found := median(samples, profile, name, field)) is not None else "-" for field in fields]
        spread, ratios = values(samples, profile, name, one.figure), (ratio(samples, profile, name, other, one.figure) for other in against)
        cells += [f"{min(spread):.1f} to {max(spread):.1f}", *("-" if found is None else f"{found:.2f}x" for found in ratios)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def bars(samples, profiles):
    """Each bar of the profiles that ran, as text, with whether it is held."""
    for profile in profiles:
        one = PROFILES[profile]
        for bar in one.bars:
            found = ratio(samples, profile, bar.proxy, bar.against, one.figure)
            held = found is not None and found <= bar.most
            what = "not measured" if found is None else f"{'held' if held else 'MISSED'} with {found:.3f}x"
            yield f"{profile}: {FIGURES[one.figure]} of {bar.proxy} at most {bar.most:.2f}x of {bar.against}: {what}", held


def text(bench, about, profiles):
    """The whole report as Markdown, and whether all bars are held."""
    samples = bench.samples
    lines = [
        f"# {about['time']}", "",
        f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}. {', '.join(about['versions'])}. "
        f"{bench.options.rounds} rounds of {bench.options.seconds} s; 64 connections unless a profile says otherwise.", "",
        "Medians of the rounds. A ratio is the median of the ratios within each round. `others`: what else ran on the two CPUs; above a "
        "few percent, measure again on a quieter machine.", "",
    ]
    checked = list(bars(samples, profiles))
    if checked:
        lines += ["## Bars", "", *(f"- {line}" for line, _ in checked), ""]
    for profile in profiles:
        if measured(samples, profile):
            lines += [table(samples, profile), ""]
    lines += [f"- {profile} FAILED: {error.splitlines()[0]}" for profile, error in bench.failures.items()]
    return "\n".join(lines).rstrip("\n") + "\n", all(held for _, held in checked)


def write(bench, about, profiles, latest):
    """Writes the results, prints the table; returns whether all bars are held."""
    made, held = text(bench, about, profiles)
    results = bench.results
    (results / "table.md").write_text(made)
    (results / "samples.json").write_text(json.dumps({**about, "failures": bench.failures, "samples": bench.samples}, indent=1) + "\n")
    (results / "plot.svg").write_text(plot.draw(rows(bench.samples, profiles), about))
    if bench.options.write:
        shutil.copy(results / "plot.svg", latest / "latest.svg")
        head, _, rest = made.partition("\n\n")
        command = " ".join(about["command"])
        (latest / "latest.md").write_text(f"{head}\n\n```sh\n{command}\n```\n\n![What each profile costs](latest.svg)\n\n{rest}")
    print(made)
    print(results)
    return held


def rows(samples, profiles):
    """What the plot shows: (profile, what its figure is called, [(proxy, median)])."""
    for profile in profiles:
        figure = PROFILES[profile].figure
        found = [(name, median(samples, profile, name, figure)) for name in measured(samples, profile)]
        if found:
            yield profile, FIGURES[figure], found
