"""Processes that a load test starts, and what the kernel says of them.

`Server` starts a program on one CPU in a session of its own, so that whatever it starts itself is found, counted and ended with
it. CPU time and memory come from /proc, summed over the session.
"""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
# Debian keeps servers where a user's PATH does not look.
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Failure(Exception):
    """The measurement cannot go on; the text says why."""


class Server:
    """A process that this script started, with whatever it started itself."""

    # Seconds until the port has to answer.
    PATIENCE = 60

    def __init__(self, name, command, port, cpu, log, env=None):
        """Starts `command` on CPU `cpu`; everything that it prints goes to the file `log`."""
        self.name, self.port, self.log = name, port, log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(cpu), *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def wait_ready(self):
        """Until the port answers, no longer than the patience."""
        end = time.monotonic() + self.PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}:\n{tail(self.log)}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failure(f"{self.name} does not listen after {self.PATIENCE} s:\n{tail(self.log)}")

    def pids(self):
        """Every process of its session: itself and its descendants."""
        return [pid for pid, session in sessions() if session == self.process.pid]

    def cpu_seconds(self):
        """User and system time of all its processes, ended ones included."""
        return sum(sum(map(int, stat(pid)[11:15])) for pid in self.pids()) / TICK

    def rss_mib(self):
        """Resident memory of all its processes; what they share counts for each."""
        return sum(int(stat(pid)[21]) for pid in self.pids()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def resident(self):
        """The same in bytes by the kernel's own sum over their pages: exact, and slow."""
        total = 0
        for pid in self.pids():
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:"))
        return total * 1024

    def settled(self):
        """`resident`, once it has stopped changing, at most 10 s later."""
        last = self.resident()
        for _ in range(10):
            time.sleep(1)
            now = self.resident()
            if abs(now - last) < 64 << 10:
                return now
            last = now
        return last

    def stop(self):
        """Ends it: SIGINT is the fast way for all of them; what is left after 5 s is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def stat(pid):
    """Fields of /proc/PID/stat from the state on; index 11 to 14 are utime, stime, cutime, cstime."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def sessions():
    """(pid, session) of every process."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield int(entry), int(stat(entry)[3])
        except OSError:
            continue


def busy_seconds(cpus):
    """Time that these CPUs did something, or were taken by the hypervisor."""
    total = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{cpu}" for cpu in cpus}:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICK


def ended_seconds():
    """CPU time of this process and of children that ended: while servers run, that is what loads them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def allow_files(need):
    """Raises the limit of open files, also for what is started later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < need:
        raise Failure(f"{need} open files are needed, and {hard} are allowed (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def tail(path, lines=15):
    """The last lines of a file."""
    return "\n".join(pathlib.Path(path).read_text(errors="replace").splitlines()[-lines:])


def say(text):
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def free_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def tool(name):
    """Path of a tool, also where a user's PATH does not look."""
    return shutil.which(name, path=SEARCH)
