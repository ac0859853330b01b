"""What loads a proxy: wrk, h2load, TLS handshakes, a constant rate, idle connections.

Each function of `LOADS` runs for so many seconds, on the CPU for loads, and returns a `Counted`. An error that a generator saw ends
the round: figures of errors are no figures.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import connections
from .servers import Failure, tail, tool

HERE = Path(__file__).resolve().parent
# Without this share of the intended rate, a constant rate was none.
LEAST_RATE = 0.98


class TooSlow(Failure):
    """The intended rate was not reached: the machine was slower than when the capacity was measured."""


@dataclass
class Counted:
    """What a generator counted in one round."""

    requests: int
    seconds: float
    output: str
    p50_us: float | None = None
    p99_us: float | None = None
    max_us: float | None = None
    bytes: int | None = None
    rss_mib: float | None = None
    # What only some of them know.
    more: dict = field(default_factory=dict)


def run(bench, command, seconds, env=None):
    """Runs a generator on its CPU; returns what it printed."""
    command = ["taskset", "-c", str(bench.load_cpu), *map(str, command)]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=seconds * 2 + 60)
    if done.returncode:
        raise Failure(f"{command[3]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def last_line(output, server):
    """The JSON that a generator ends with; errors in it are one of ours."""
    try:
        counted = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise Failure(f"no figures: {output[-2000:]}") from error
    kinds = ("connect", "read", "write", "status", "timeout", "errors")
    errors = {kind: counted[kind] for kind in kinds if counted.get(kind)}
    if errors or not counted["requests"]:
        raise Failure(f"{server.name}: {counted['requests']} requests, errors {errors}\n{tail(server.log)}")
    return counted


def wrk(bench, profile, server, work, seconds):
    """As fast as answers come."""
    scheme = "https" if profile.tls else "http"
    command = [tool("wrk"), "-t1", f"-c{profile.connections}", f"-d{seconds}s", "--timeout", "20s", "-s", HERE.parent / "plain.lua",
               f"{scheme}://127.0.0.1:{server.port}{work.requests[0][0]}"]
    output = run(bench, command, seconds, {"REQUESTS": str(work.file or "")})
    counted = last_line(output, server)
    return Counted(counted["requests"], counted["micros"] / 1e6, output, counted["p50"], counted["p99"], counted["max"], counted["bytes"])


def h2load(bench, profile, server, work, seconds):
    """Streams of HTTP/2 over a few connections; every answer is in a log, which has the latencies."""
    log = bench.directory / "h2load.log"
    log.unlink(missing_ok=True)
    # One cipher, so that the proxies do not differ by what they prefer.
    command = [tool("h2load"), "-c", profile.connections, "-m", 8, "-t", 1, "-D", seconds, "--tls13-ciphers=TLS_AES_256_GCM_SHA384",
               f"--log-file={log}", f"https://127.0.0.1:{server.port}{work.requests[0][0]}"]
    output = run(bench, command, seconds)
    if "Application protocol: h2" not in output:
        raise Failure(f"{server.name} does not speak HTTP/2: {output[-2000:]}")
    found = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    answers = [line.split("\t") for line in log.read_text().splitlines()]
    wrong = sum(fields[1] != "200" for fields in answers)
    if not found or any(map(int, found.groups())) or wrong or not answers:
        raise Failure(f"{server.name}: {len(answers)} answers, {wrong} of them no 200: {output[-2000:]}\n{tail(server.log)}")
    times = sorted(int(fields[2]) for fields in answers)
    return Counted(len(times), seconds, output, times[len(times) // 2], times[len(times) * 99 // 100], times[-1])


def handshakes(mode):
    """TLS connections one after the other."""
    def load(bench, profile, server, work, seconds):
        """In one mode."""
        command = [sys.executable, HERE / "handshakes.py", server.port, seconds, mode, work.requests[0][0], profile.size]
        output = run(bench, command, seconds)
        counted = last_line(output, server)
        return Counted(counted["requests"] + counted["uncounted"], counted["micros"] / 1e6, output,
                       counted["p50"], counted["p99"], counted["max"])

    return load


def pace(bench, profile, server, work, seconds):
    """A constant rate, a share of what this proxy can do."""
    rate = bench.capacity[server.name] * profile.share
    if not os.access(bench.options.pace, os.X_OK):
        raise Failure(f"{bench.options.pace} is not there: cargo build --release --example pace")
    output = run(bench, [bench.options.pace, f"127.0.0.1:{server.port}", f"{rate:.0f}", seconds, profile.connections,
                         work.requests[0][0]], seconds)
    counted = last_line(output, server)
    took = counted["micros"] / 1e6
    if (achieved := counted["requests"] / took) < LEAST_RATE * rate:
        raise TooSlow(f"{server.name} answers {achieved:.0f} requests/s of {rate:.0f}, {profile.share:.0%} of what it did before")
    more = {"intended": rate, "late_p99_us": counted["late_p99"], "p999_us": counted["p999"]}
    return Counted(counted["requests"], took, output, counted["p50"], counted["p99"], counted["max"], more=more)


def idle(bench, profile, server, _work, _seconds):
    """Connections that have asked once and stay. The figure is memory; the rest is only for the record."""
    before = server.settled()
    some = []
    try:
        for number in range(bench.options.idle_connections):
            some.append(connections.connect("http1", server.port, number, None))
        during = server.settled()
        # They have to be there still, and to be of use.
        for connection in some[:: max(1, len(some) // 64)]:
            connections.ask_http1(connection)
    finally:
        for connection in some:
            connection.close()
    each = (during - before) / len(some) / 1024
    output = f"{before} bytes before, {during} with {len(some)} connections, {each:.2f} KiB for each\n"
    return Counted(len(some), 1, output, rss_mib=during / 2**20, more={"before_mib": before / 2**20, "kib_each": each})


LOADS = {"wrk": wrk, "h2load": h2load, "handshakes_new": handshakes("new"), "handshakes_resumed": handshakes("resumed"),
         "pace": pace, "idle": idle}
