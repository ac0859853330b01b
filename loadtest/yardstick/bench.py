"""One run: starts backend and proxies, goes through the rounds, keeps samples.

Rounds are interleaved: every proxy of a profile is up for all of them, and they take turns, so that what else the machine does
falls on all alike. A profile that fails is reported, and the next one begins.
"""

import statistics
import subprocess
import time

from . import checks, generators, proxies, work
from .profiles import PROFILES, kind
from .servers import Failure, Server, busy_seconds, ended_seconds, free_port, say, tool
from .templates import BODY, fill

# Memory does not differ from round to round as times do, and its rounds are long.
FRESH_ROUNDS = 3
# How often a round at a constant rate is tried; each time from a capacity that was measured just before.
TRIES = 3


class Bench:
    """What was started, and where results go."""

    def __init__(self, options, directory, results):
        """`directory` is for this run alone; `results` stays."""
        self.options, self.directory, self.results = options, directory, results
        self.servers, self.samples, self.failures = [], [], {}
        self.proxy_cpu, self.load_cpu = options.cpus
        # Requests a second that each proxy takes at most, for the profiles with a constant rate.
        self.capacity = {}
        self.backend = None

    def start(self, name, command, port, cpu, env=None, log=None):
        """Starts a server and waits for it."""
        server = Server(name, command, port, cpu, log or self.results / f"{name}.log", env)
        self.servers.append(server)
        server.wait_ready()
        return server

    def stop(self, servers=None):
        """Ends these, or whatever was started."""
        for server in list(self.servers if servers is None else servers):
            server.stop()
            self.servers.remove(server)

    def start_backend(self):
        """What the proxies ask: nginx, on the CPU of the load. It is there before anything is measured."""
        files = self.directory / "files"
        files.mkdir(mode=0o755)
        for profile in PROFILES.values():
            if profile.path.startswith("/files/"):
                (self.directory / profile.path[1:]).write_bytes(checks.content(profile.size))
        port, program = free_port(), tool("nginx") or self.options.nginx
        endpoints = "\n".join(f"listen {address}:{port};" for address in work.addresses())
        conf = fill("backend.conf", self.directory / "backend.conf", DIR=self.directory, BACKEND=port, BODY=BODY.decode(), ENDPOINTS=endpoints)
        self.backend = self.start("backend", [program, "-e", "stderr", "-c", conf], port, self.load_cpu)

    def start_proxy(self, label, name, limit=100_000_000):
        """One proxy for one profile; returns it with its work and its access log. Nothing reaches the default limit."""
        profile, port = PROFILES[label], free_port()
        log = self.directory / f"{label}-{name}-access.log"
        log.unlink(missing_ok=True)
        made = work.make(profile, name, self.directory, self.options)
        values = {"WORKERS": 1, **made.values, "DIR": self.directory, "PORT": port, "BACKEND": self.backend.port, "LOG": log, "LIMIT": limit,
                  "MAXCONN": max(4096, 2 * self.options.idle_connections if profile.load == "idle" else 0)}
        conf = None if kind(name) == "bare" else proxies.configure(name, profile.setup, self.directory, values)
        command, env = proxies.command(name, conf, self.options, self.directory, values)
        logs = profile.setup == "gateway" and kind(name) != "bare"
        # HAProxy writes its access log to standard output.
        out = log if logs and kind(name) == "haproxy" else self.results / f"{label}-{name}.log"
        cpus = f"{self.proxy_cpu},{self.load_cpu}" if profile.setup == "workers" else self.proxy_cpu
        server = self.start(name, command, port, cpus, env, out)
        checks.await_answer(server, profile, made)
        return server, made, log if logs else None

    def prove_limit(self, label, name):
        """Its limit limits."""
        server, made, _ = self.start_proxy(label, name, 5)
        checks.prove_limit(server, made)
        self.stop([server])

    def measure_capacity(self, server, made):
        """What a proxy can do at most: the median of three short rounds as in `plain`."""
        seconds = min(2, self.options.seconds)
        counted = [generators.wrk(self, PROFILES["plain"], server, made, seconds) for _ in range(3 if seconds > 1 else 1)]
        self.capacity[server.name] = statistics.median(one.requests / one.seconds for one in counted)

    def measure(self, label, server, made, access_log, number):
        """One round of one proxy, once more if the machine was too slow for its rate; round 0 is the warm-up and is not kept."""
        for left in reversed(range(TRIES)):
            try:
                return self.measure_once(label, server, made, access_log, number)
            except generators.TooSlow as error:
                if not left:
                    raise
                say(f"{label}: {error}; measured again")
                self.measure_capacity(server, made)

    def measure_once(self, label, server, made, access_log, number):
        """One try of a round."""
        profile = PROFILES[label]
        checks.equal_work(server, profile, made)
        seconds = self.options.seconds if number else min(3, self.options.seconds)
        before = self.accounts(server)
        counted = generators.LOADS[profile.load](self, profile, server, made, seconds)
        used, behind, load, busy, wall = (end - start for start, end in zip(before, self.accounts(server)))
        (self.results / f"{label}-{number}-{server.name}.txt").write_text(counted.output)
        if access_log:
            checks.check_log(server, access_log, counted.requests)
        sample = {
            "profile": label, "round": number, "proxy": server.name, "requests": counted.requests,
            "cpu_us": used / counted.requests * 1e6, "per_second": counted.requests / counted.seconds,
            "p50_us": counted.p50_us, "p99_us": counted.p99_us, "max_us": counted.max_us,
            "rss_mib": counted.rss_mib or server.rss_mib(), "busy": used / wall,
            "others": max(0.0, busy - used - behind - load) / (wall * 2), **counted.more,
        }
        if counted.bytes:
            sample["us_per_mib"] = used / counted.bytes * 2**20 * 1e6
        self.tell(label, sample)
        if number:
            self.samples.append(sample)

    def accounts(self, server):
        """CPU seconds of the proxy, the backend, the load; of everyone on the two CPUs; the time."""
        return (server.cpu_seconds(), self.backend.cpu_seconds(), ended_seconds(),
                busy_seconds({self.proxy_cpu, self.load_cpu}), time.monotonic())

    def tell(self, label, sample):
        """A line of progress."""
        latency = f"p99 {sample['p99_us'] / 1000:8.2f} ms" if sample["p99_us"] is not None else " " * 15
        say(f"{label:11} {sample['round'] or 'warm-up'}/{self.options.rounds} {sample['proxy']:14}{sample['cpu_us']:9.2f} us"
            f"{sample['per_second']:9.0f}/s  {latency}  {sample['rss_mib']:6.0f} MiB  others {sample['others']:.0%}")

    def run(self, label, names):
        """All rounds of one profile; what goes wrong is kept, and told."""
        keep = list(self.servers)
        try:
            if PROFILES[label].fresh:
                self.run_fresh(label, names)
            else:
                self.run_together(label, names)
        except (Failure, OSError, subprocess.SubprocessError) as error:
            if isinstance(error, Interrupted):
                raise
            self.failures[label] = str(error)
            say(f"{label}: FAILED: {error}")
        finally:
            self.stop([server for server in self.servers if server not in keep])

    def run_together(self, label, names):
        """Everyone is up, and they take turns."""
        profile = PROFILES[label]
        for name in names if profile.limited else []:
            if kind(name) != "bare":
                self.prove_limit(label, name)
        started = [self.start_proxy(label, name) for name in names]
        for server, made, _ in started:
            if profile.share and server.name not in self.capacity:
                self.measure_capacity(server, made)
        # A single round is there to see that everything works.
        for number in range(1 if self.options.rounds == 1 else 0, self.options.rounds + 1):
            for server, made, access_log in started:
                self.measure(label, server, made, access_log, number)

    def run_fresh(self, label, names):
        """A new process for each round."""
        for number in range(1, min(FRESH_ROUNDS, self.options.rounds) + 1):
            for name in names:
                server, made, access_log = self.start_proxy(label, name)
                self.measure(label, server, made, access_log, number)
                self.stop([server])


class Interrupted(Failure):
    """A signal: nothing more is measured."""
