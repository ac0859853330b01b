"""What is measured, of whom, and which bars hold.

A `Profile` says what the proxies do (`setup`: which templates), how they are loaded (`load`: a function of `generators`), and which
field of a sample is its figure. A `Bar` is a ratio of one figure within one run.

A name of a proxy may have a variant behind a dash: `torana-10000` is the gateway with 10,000 routes; `work` knows what it means.
"""

from dataclasses import dataclass

# Those that speak TLS as well, and those that do so here.
TLS = ("torana", "nginx", "haproxy", "envoy", "traefik", "caddy")
PROXIES = ("bare", *TLS, "pingap")
MIB = 1 << 20
# What a figure is called in tables and on the plot.
FIGURES = {"cpu_us": "CPU us/request", "p99_us": "p99 us", "rss_mib": "RSS MiB"}


@dataclass(frozen=True)
class Bar:
    """The figure of `proxy` is at most `most` times that of `against`."""

    against: str
    most: float
    proxy: str = "torana"


@dataclass(frozen=True)
class Profile:
    """One way to ask, the same for all proxies that take part."""

    what: str
    proxies: tuple = PROXIES
    setup: str = "plain"
    load: str = "wrk"
    figure: str = "cpu_us"
    bars: tuple = ()
    path: str = "/"
    # Bytes of an answer.
    size: int = 1024
    connections: int = 64
    # Each request is the last of its connection.
    close: bool = False
    # The rate of a constant load, as a share of what the proxy can do at most.
    share: float = 0
    # Each round begins with a new process: what an earlier one left in memory would count.
    fresh: bool = False

    @property
    def tls(self):
        """Clients speak TLS."""
        return self.setup == "tls"

    @property
    def limited(self):
        """There is a rate limit to prove."""
        return self.setup in ("gateway", "api-key")


HANDSHAKES = (
    "One client after the other: TCP, TLS 1.3 with a P-256 certificate, one request of HTTP/1.1, the end. The client is Python, so only "
    "what it costs the proxy counts, not the rate."
)
CONSTANT = (
    "Requests at a constant rate over 64 connections, {share} % of what the proxy takes from wrk in the same run; each has its time "
    "on a schedule, and its latency counts from then (no coordinated omission)."
)

PROFILES = {
    "plain": Profile("1 KiB answers, nothing but proxying.", bars=(Bar("bare", 1.05), Bar("nginx", 1.00))),
    "tls": Profile("The same over TLS, connections kept.", TLS, setup="tls", bars=(Bar("nginx", 1.00),)),
    "tls-new": Profile(
        f"A connection and a full handshake for each request. {HANDSHAKES}", TLS, setup="tls", load="handshakes_new",
        connections=1, bars=(Bar("nginx", 1.00),)),
    "tls-resumed": Profile(
        f"The same, every session resumed, which the client verifies. {HANDSHAKES}", TLS, setup="tls",
        load="handshakes_resumed", connections=1, bars=(Bar("nginx", 1.00),)),
    "h2": Profile(
        "HTTP/2 over TLS: 8 connections with 8 streams each (h2load); HTTP/1.1 to the backend.", TLS, setup="tls", load="h2load",
        connections=8, bars=(Bar("nginx", 1.00),)),
    "gateway": Profile(
        "RS256 token, rate limit by subject, JSON access log; the gateway's metrics are on, as always. `bare` gets the same requests "
        "and does none of it. nginx is not here: without the commercial module it verifies no token. Envoy limits by local buckets for "
        "each subject; `envoy` remembers verified tokens (jwt_cache_config), as the gateway does, `envoy-uncached` verifies every time, "
        "which is its default; HAProxy cannot but verify every time.",
        ("bare", "torana", "haproxy", "envoy", "envoy-uncached"), setup="gateway",
        bars=(Bar("bare", 1.15), Bar("envoy", 0.60), Bar("haproxy", 0.55))),
    "api-key": Profile(
        "API key, rate limit by consumer; 100 consumers, used in turn. nginx and HAProxy look keys up in a map.",
        ("torana", "nginx", "haproxy", "envoy"), setup="api-key"),
    "headers": Profile(
        "Two request headers set and one removed, two response headers set and one removed, a prefix of the path taken away.",
        ("torana", "nginx", "haproxy", "envoy"), setup="headers", path="/api/marked/"),
    "cache": Profile(
        "1,000 answers of 1 KiB that may be kept for an hour, asked for in turn. nginx keeps them in files (in the page cache, with open_file_cache), the "
        "gateway and HAProxy in memory.",
        ("torana", "nginx", "haproxy"), setup="cache", path="/kept/", bars=(Bar("nginx", 1.00),)),
    "waf": Profile(
        "The OWASP Core Rule Set 3.3.4 at its first level over a hundred requests as browsers send them (queries, cookies, a dozen headers), in turn; nginx with "
        "libmodsecurity, its audit log off. Both refuse the same attacks. Neither HAProxy nor Envoy has rules of this kind within.",
        ("torana", "nginx-modsecurity"), setup="waf", path="/"),
    "body-100k": Profile("Answers of 100 KiB.", path="/files/100k", size=100 << 10),
    "body-10m": Profile("Answers of 10 MiB, four at a time.", path="/files/10m", size=10 * MIB, connections=4),
    "routes": Profile(
        "10,000 routes by prefix beside 10, with as many distinct paths of the same length; each route gets as many requests as any other.",
        ("torana-10", "torana-10000", "nginx-10", "nginx-10000", "haproxy-10", "haproxy-10000"), setup="routes",
        bars=(Bar("torana-10", 1.02, "torana-10000"),)),
    "keys": Profile(
        "API keys among 1 to 1,000,000 consumers, of whom a thousand call in turn.",
        ("torana-1", "torana-1000", "torana-100000", "torana-1000000"), setup="keys"),
    "endpoints": Profile(
        "An upstream with 1 to 1,000 endpoints, in turn. More endpoints are more connections to them, which is most of what they cost.",
        ("torana-1", "torana-10", "torana-100", "torana-1000"), setup="endpoints"),
    "workers": Profile(
        "Two workers beside one. They share both CPUs with backend and load, so that only CPU per request compares.",
        ("bare-1", "bare-2", "torana-1", "torana-2", "nginx-1", "nginx-2"), setup="workers"),
    "churn": Profile("A new TCP connection for each request (`Connection: close`).", close=True),
    "latency-50": Profile(
        CONSTANT.format(share=50), load="pace", figure="p99_us", share=0.5, bars=(Bar("haproxy", 1.10),)),
    "latency-80": Profile(CONSTANT.format(share=80), load="pace", figure="p99_us", share=0.8),
    "idle": Profile(
        "Resident memory of all processes with 10,000 idle connections (`--idle-connections`), each after one request. Every round begins "
        "with a new process.",
        ("torana", "nginx", "haproxy", "envoy"), load="idle", figure="rss_mib", fresh=True, bars=(Bar("envoy", 1.00),)),
}


def kind(name):
    """Which program a name stands for."""
    return name.partition("-")[0]


def variant(name):
    """What is different about it, or nothing."""
    return name.partition("-")[2]
