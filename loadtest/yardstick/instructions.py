"""The guard against becoming slower: instructions that a request costs, beside a stored budget.

Times on a shared machine differ by a tenth from run to run; instructions do not differ by a thousandth. The whole gateway runs under
valgrind (callgrind), so Pingora and every other crate count as well, and what the kernel does does not. After a warm-up its counters are
set to zero, one client sends some requests over one connection, and the total is divided by their number.

`loadtest/instructions.json` has the budget of each profile. More than 3 % above it is an error: whoever makes a request costlier writes the
new figure (`--update`) and says why in the commit. More than 3 % below it asks for a lower budget. The figures hold for one build
(`cargo build --profile guard`) and one toolchain.

The gateway's own locked instructions (`locked`) have a budget as well, to the one.
"""

import argparse
import collections
import http.client
import json
import pathlib
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from types import SimpleNamespace

from . import locked
from .bench import Bench
from .profiles import PROFILES
from .servers import Failure, Server, say, tail, tool

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUDGET = ROOT / "loadtest/instructions.json"
SLACK = 0.03
# (profile, proxy)
COUNTED = (("plain", "torana"), ("headers", "torana"), ("api-key", "torana"), ("gateway", "torana"), ("routes", "torana-10000"))
WARM, REQUESTS = 300, 1000
# What the C library copies with depends on the CPU; so it does not.
SAME_COPIES = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-ERMS,-FSRM"}


@dataclass(frozen=True)
class Cost:
    """What a request costs."""

    instructions: int
    # Of the gateway's own.
    locked: int
    functions: dict

    def budget(self):
        """What is stored."""
        return {"instructions": self.instructions, "locked": self.locked}


class Watched(Server):
    """A server under valgrind, which needs a while to start."""

    PATIENCE = 120


class Guard(Bench):
    """Starts the gateway under valgrind, and everything else as always."""

    def start(self, name, command, port, cpu, env=None, log=None):
        """The gateway is the one whose name says so."""
        if not name.startswith("torana"):
            return super().start(name, command, port, cpu, env, log)
        out = self.results / f"callgrind.{name}"
        command = [tool("valgrind"), "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}", *command]
        server = Watched(name, command, port, cpu, log or self.results / f"{name}.log", {**(env or {}), **SAME_COPIES})
        self.servers.append(server)
        server.wait_ready()
        return server

    def count(self, label, name, addresses):
        """What one request costs in a profile: instructions, and locked ones, by function."""
        server, made, _ = self.start_proxy(label, name)
        ask(server, made, WARM)
        control("-z", server)
        ask(server, made, REQUESTS)
        control("-d", server)
        dump = self.results / f"callgrind.{name}.1"
        total = totals(dump)
        functions = locked.by_function(dump, self.options.torana, addresses)
        self.stop([server])
        dump.unlink()
        return Cost(round(total / REQUESTS), round(locked.own(functions) / REQUESTS), functions)


def control(what, server):
    """Tells valgrind to do something now."""
    done = subprocess.run([tool("callgrind_control"), what, str(server.process.pid)], capture_output=True, text=True, check=False)
    if "OK" not in done.stdout:
        raise Failure(f"callgrind_control {what}: {done.stdout}{done.stderr}\n{tail(server.log)}")


def totals(dump):
    """The sum in a file of callgrind, which may still be written."""
    for _ in range(100):
        if dump.exists() and (found := re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.M)):
            return int(found[1])
        time.sleep(0.1)
    raise Failure(f"{dump} has no total")


def ask(server, made, count):
    """So many requests over one connection, in turn."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        for number in range(count):
            path, headers = made.requests[number % len(made.requests)]
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise Failure(f"{server.name} answers {answer.status} to {path}: {body[:200]!r}")
    finally:
        connection.close()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        epilog="Exit codes: 0 within the budget, 1 above it, 2 it could not be counted.")
    parser.add_argument("--torana", type=pathlib.Path, default=ROOT / "target/guard/torana", metavar="PATH",
                        help="(target/guard/torana: cargo build --profile guard --bin torana)")
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="also print the N functions with the most locked instructions")
    parser.add_argument("--update", action="store_true", help="write what was counted as the new budget")
    return parser.parse_args()


def judge(counted, budget):
    """Prints each figure beside its budget; whether all are within it."""
    held = True
    for label, cost in counted.items():
        allowed = budget.get(label) or {"instructions": 0, "locked": 0}
        change = cost.instructions / allowed["instructions"] - 1 if allowed["instructions"] else 1
        verdict = f"{change:+.1%} of {allowed['instructions']}"
        if change > SLACK or cost.locked > allowed["locked"]:
            held, verdict = False, f"{verdict}, {allowed['locked']} locked: ABOVE the budget"
        elif change < -SLACK or cost.locked < allowed["locked"]:
            verdict = f"{verdict}, {allowed['locked']} locked: lower the budget (--update)"
        everywhere = sum(cost.functions.values()) // REQUESTS
        print(f"{label:9} {cost.instructions:7} instructions a request, {cost.locked:3} of {everywhere} locked ones its own  {verdict}")
    return held


def show(counted, most):
    """Where the locked instructions are."""
    for label, cost in counted.items():
        print(f"\n{label}: locked instructions of a request")
        for function, count in collections.Counter(cost.functions).most_common(most):
            print(f"{count / REQUESTS:8.2f} {function[:140]}")


def main():
    """Counts all profiles; returns the exit code."""
    options = arguments()
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    try:
        for program in ("valgrind", "nginx"):
            if not tool(program):
                raise Failure(f"{program} is missing: apt-get install valgrind nginx-light")
        if not options.torana.exists():
            raise Failure(f"{options.torana} is not there: cargo build --profile guard --bin torana")
        counted = count_all(options)
    except (Failure, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
        say(f"instructions: {error}")
        return 2
    if options.update:
        budget = {label: cost.budget() for label, cost in counted.items()}
        BUDGET.write_text(json.dumps(budget, indent=1) + "\n")
    if options.functions:
        show(counted, options.functions)
    return 0 if judge(counted, budget) else 1


def count_all(options):
    """The figure of each profile."""
    made = SimpleNamespace(torana=options.torana, cpus=[0, 0], tokens=10, idle_connections=0, nginx=None, rounds=1, seconds=1)
    with tempfile.TemporaryDirectory(prefix="torana-instructions-") as directory:
        directory = pathlib.Path(directory)
        directory.chmod(0o755)
        results = directory / "results"
        results.mkdir()
        guard = Guard(made, directory, results)
        try:
            guard.start_backend()
            counted, addresses = {}, locked.addresses(options.torana)
            for label, name in COUNTED:
                say(f"{label}: {PROFILES[label].what.split('.')[0]}")
                counted[label] = guard.count(label, name, addresses)
            return counted
        finally:
            guard.stop()
