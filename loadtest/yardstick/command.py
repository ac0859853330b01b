"""The command line of `loadtest/compare`."""

import argparse
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timezone

from . import proxies, report, templates
from .bench import Bench, Interrupted
from .profiles import FIGURES, PROFILES, PROXIES, kind, variant
from .proxies import ROOT
from .servers import Failure, allow_files, say, tool

DESCRIPTION = """What a request costs the gateway beside a bare Pingora proxy, nginx, HAProxy, Envoy, Traefik, Caddy and Pingap.

One machine, one run: each proxy has one worker pinned to one CPU, the load and the backend share another. Rounds are
interleaved, so that what else the machine does falls on all alike. Before each round every proxy has to give the same answer;
a round with an error, or with an access log that lacks lines, ends its profile."""
LATEST = ROOT / "loadtest"


def names(text):
    """A list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parser():
    """What can be said."""
    made = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 fine, 1 a bar is missed (with --check), 2 something could not be measured.")
    add, path = made.add_argument, {"type": pathlib.Path, "metavar": "PATH"}
    add("--list", action="store_true", help="say what there is to measure, with the bars")
    add("--install", action="store_true", help="bring Envoy, Traefik, Caddy and Pingap into target/peers (Pingap is built: half an hour); say what Debian has to bring")
    add("--profile", type=names, default=["all"], metavar="NAME,...", help="what to measure: all, or some of --list (all)")
    add("--only", type=names, metavar="NAME,...", help=f"only these proxies, of {','.join(PROXIES)}")
    add("--rounds", type=int, default=5, help="rounds of each proxy, after a warm-up if there is more than one (5)")
    add("--seconds", type=int, default=8, help="length of a round (8)")
    add("--tokens", type=int, default=100, help="tokens or API keys, used in turn, each of another caller (100)")
    add("--idle-connections", type=int, default=10_000, metavar="N", help="connections of the profile `idle` (10000)")
    add("--most-keys", type=int, default=1_000_000, metavar="N", help="leave larger steps of the profile `keys` out (1000000: wants 1.5 GiB)")
    add("--cpus", metavar="PROXY,LOAD", help="the CPU of the proxies, and that of load and backend (the first two)")
    add("--torana", default=ROOT / "target/release/torana", help="(target/release)", **path)
    add("--bare", default=ROOT / "target/release/examples/bare", help="(target/release/examples)", **path)
    add("--pace", default=ROOT / "target/release/examples/pace", help="what makes a constant rate (target/release/examples)", **path)
    for name in ("nginx", "haproxy", "envoy", "traefik", "caddy", "pingap"):
        add(f"--{name}", help=f"another {name}", **path)
    add("--check", action="store_true", help="exit with 1 if a bar is missed or not measured")
    add("--write", action="store_true", help="put table and plot into loadtest/latest.md and loadtest/latest.svg as well")
    return made


def arguments():
    """The command line, checked."""
    made = parser()
    options = made.parse_args()
    if options.profile == ["all"]:
        options.profile = list(PROFILES)
    for given, known, what in ((options.profile, PROFILES, "--profile"), (options.only or [], PROXIES, "--only")):
        if wrong := set(given) - set(known):
            made.error(f"{what}: {', '.join(sorted(wrong))}: not one of {', '.join(known)}")
    if min(options.rounds, options.seconds, options.tokens, options.idle_connections) < 1:
        made.error("--rounds, --seconds, --tokens and --idle-connections are at least 1")
    try:
        options.cpus = [int(cpu) for cpu in options.cpus.split(",")] if options.cpus else sorted(os.sched_getaffinity(0))[:2]
    except ValueError:
        made.error("--cpus: two numbers, such as 0,1")
    if len(set(options.cpus)) != 2 or not set(options.cpus) <= os.sched_getaffinity(0):
        made.error(f"two CPUs of {sorted(os.sched_getaffinity(0))} are needed")
    return options


def show():
    """What there is to measure."""
    for name, profile in PROFILES.items():
        print(f"{name}: {profile.what}\n    {', '.join(profile.proxies)}; the figure is {FIGURES[profile.figure]}")
        for bar in profile.bars:
            print(f"    bar: {bar.proxy} at most {bar.most:.2f}x of {bar.against}")


def choose(options):
    """The proxies of each profile. Those that are not there are left out, unless they were named."""
    missing = {name for name in PROXIES if proxies.program(name, options) is None}
    if named := missing & set(options.only or ["torana"]):
        raise Failure("; ".join(f"{name} is not there: {proxies.KNOWN[name].hint}" for name in sorted(named)))
    for name in sorted(missing):
        say(f"{name} is left out: {proxies.KNOWN[name].hint}")
    wanted = set(options.only or PROXIES) - missing
    if proxies.program("nginx-modsecurity", options) is None and "nginx" in wanted and "waf" in options.profile:
        say("nginx-modsecurity is left out: apt-get install libnginx-mod-http-modsecurity")
    return {label: [name for name in PROFILES[label].proxies if kind(name) in wanted and proxies.program(name, options)
                    and not (label == "keys" and int(variant(name)) > options.most_keys)] for label in options.profile}


def require(chosen, options):
    """All tools are there, and templates for everyone."""
    needed = ["wrk", "openssl", "taskset", *(["h2load"] if "h2" in chosen else []), *([] if options.nginx else ["nginx"])]
    missing = [name for name in needed if not tool(name)]
    if missing:
        raise Failure(f"missing: {', '.join(missing)}. On Debian: apt-get install {' '.join(proxies.DEBIAN[name] for name in missing)}")
    for label, some in chosen.items():
        for name in {kind(name) for name in some} - {"bare"}:
            if PROFILES[label].setup not in templates.setups(name):
                raise Failure(f"{name} has no template for {PROFILES[label].setup}")


def environment(options, chosen):
    """What is measured, and on what."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    used = {kind(name) for some in chosen.values() for name in some}
    tools = ["wrk", *(["h2load"] if "h2" in chosen else [])]
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu[1] if cpu else platform.machine(), "cpus": os.cpu_count(), "kernel": platform.release(),
        "versions": [proxies.version(name, options) for name in [*(name for name in PROXIES if name in used), *tools]],
        "command": ["loadtest/compare", *sys.argv[1:]],
        "arguments": {key: str(value) for key, value in vars(options).items()},
    }


def interrupted(number, _frame):
    """SIGINT and SIGTERM: the way out of `main`, past its clean-up."""
    raise Interrupted(signal.Signals(number).name)


def run(options):
    """The whole run; whether everything was measured, and whether all bars are held."""
    chosen = choose(options)
    require(chosen, options)
    if "idle" in chosen:
        allow_files(options.idle_connections + 256)
    about = environment(options, chosen)
    results = LATEST / "results" / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    results.mkdir(parents=True)
    bench = None
    with tempfile.TemporaryDirectory(prefix="torana-compare-") as directory:
        os.chmod(directory, 0o755)
        try:
            bench = Bench(options, pathlib.Path(directory), results)
            bench.start_backend()
            for label, some in chosen.items():
                bench.run(label, some)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            if bench:
                bench.stop()
    return not bench.failures, report.write(bench, about, list(chosen), LATEST)


def main():
    """Returns the exit code."""
    options = arguments()
    if options.list:
        show()
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    try:
        if options.install:
            return 0 if proxies.install() else 2
        complete, held = run(options)
    except (Failure, OSError, subprocess.SubprocessError) as error:
        say(f"compare: {error}")
        return 2
    if not complete:
        return 2
    return 1 if options.check and not held else 0
