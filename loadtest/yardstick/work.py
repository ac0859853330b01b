"""What the requests of a setup are, and what the templates need to answer them.

`make` gives a `Work`: the requests, which are sent in turn, and values for templates. Everyone who takes part in a profile gets the
same, unless the variant in its name says otherwise.
"""

import base64
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .profiles import variant
from .proxies import MODSECURITY
from .servers import Failure

QUIET = {"check": True, "capture_output": True}
DISTINCT_PATHS = 10_000
MOST_ENDPOINTS = 1000


@dataclass
class Work:
    """Requests as (path, headers), the first of which is also what checks ask with; `file` has them for wrk."""

    requests: list
    values: dict = field(default_factory=dict)
    file: Path | None = None


def make(profile, name, directory, options):
    """The work of one proxy in one profile."""
    made = SETUPS.get(profile.setup, plain)(profile, variant(name), directory, options)
    if profile.close:
        made.requests = [(path, {**headers, "Connection": "close"}) for path, headers in made.requests]
    if made.requests != [("/", {})]:
        made.file = directory / f"requests-{profile.setup}-{variant(name)}"
        lines = ("\t".join([path, *(f"{key}: {value}" for key, value in headers.items())]) for path, headers in made.requests)
        made.file.write_text("".join(f"{line}\n" for line in lines))
    return made


def plain(profile, _variant, _directory, _options):
    """One GET over and over."""
    return Work([(profile.path, {})])


def tls(profile, _variant, directory, _options):
    """The same, and one certificate for everyone."""
    key, cert = certificate(directory)
    pem = directory / "both.pem"
    pem.write_text(cert.read_text() + key.read_text())
    return Work([(profile.path, {})], {"KEY": key, "CERT": cert, "PEM": pem})


def gateway(profile, name, directory, options):
    """Bearer tokens in turn."""
    tokens, public, jwks = make_tokens(directory, options.tokens)
    return Work([(profile.path, {"Authorization": f"Bearer {token}"}) for token in tokens],
                {"PUBLIC_KEY": public, "JWKS": jwks, "ENVOY_CACHE": "" if name == "uncached" else "jwt_cache_config: { jwt_cache_size: 10000 }"})


def api_key(profile, _variant, directory, options):
    """API keys in turn."""
    keys = [f"key-{number:04}-" + f"{number * 2654435761 % 2**32:08x}" * 4 for number in range(options.tokens)]
    users = [f"consumer-{number:04}" for number in range(options.tokens)]
    pairs, table = list(zip(keys, users)), directory / "keys.map"
    table.write_text("".join(f"{key} {user}\n" for key, user in pairs))
    values = {
        "KEY_MAP": table,
        "NGINX_KEYS": "\n".join(f"{key} {user};" for key, user in pairs),
        "TORANA_KEYS": "\n".join(f"{user}: {{ api_keys: [{key}] }}" for key, user in pairs),
        "ENVOY_KEYS": "\n".join(f"- {{ key: {key}, client: {user} }}" for key, user in pairs),
    }
    return Work([(profile.path, {"X-Api-Key": key}) for key in keys], values)


def headers(profile, _variant, _directory, _options):
    """One header to remove, one to keep."""
    return Work([(profile.path, {"X-Drop": "1", "X-Kept": "yes"})])


def routes(_profile, name, directory, _options):
    """As many routes as the variant says, and paths that go through them in turn."""
    count, table = int(name), directory / f"routes-{name}.map"
    known = [f"r{number:05}" for number in range(count)]
    table.write_text("".join(f"{route} up\n" for route in known))
    values = {
        "ROUTE_MAP": table,
        "NGINX_ROUTES": "\n".join(f"location /{route}/ {{ proxy_pass http://up; }}" for route in known),
        "TORANA_ROUTES": "\n".join(
            f"- {{ name: {route}, match: {{ path: {{ prefix: /{route} }} }}, public: true, upstream: up }}" for route in known),
    }
    # Neighbours on the list are far apart in the file, for 10 routes as for 10,000.
    order = [number * 7919 % DISTINCT_PATHS for number in range(DISTINCT_PATHS)]
    return Work([(f"/{known[number % count]}/{number:05}", {}) for number in order], values)


def keys(profile, name, directory, _options):
    """As many consumers as the variant says, each with a key; a thousand of them call."""
    count, file = int(name), directory / f"consumers-{name}.yaml"
    known = [f"key-{number:07}-" + f"{number * 2654435761 % 2**32:08x}" * 4 for number in range(count)]
    file.write_text("".join(f"c{number}: {{ api_keys: [{key}] }}\n" for number, key in enumerate(known)))
    return Work([(profile.path, {"X-Api-Key": known[number * 7919 % count]}) for number in range(1000)], {"CONSUMERS": file})


def addresses():
    """Loopback addresses that the backend listens on, for as many endpoints."""
    return [f"127.0.{4 + number // 250}.{1 + number % 250}" for number in range(MOST_ENDPOINTS)]


def endpoints(profile, name, _directory, _options):
    """As many endpoints as the variant says."""
    known = ", ".join(f'"{address}:@BACKEND@"' for address in addresses()[:int(name)])
    return Work([(profile.path, {})], {"ENDPOINTS": known})


def workers(profile, name, _directory, _options):
    """As many workers as the variant says."""
    return Work([(profile.path, {})], {"WORKERS": int(name)})


def cache(profile, _variant, _directory, _options):
    """A thousand paths in turn."""
    return Work([(f"{profile.path}{number:04}", {}) for number in range(1000)])


BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "https://shop.example/categories/shoes?page=1",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Host": "shop.example",
}


def waf(_profile, _variant, directory, _options):
    """What a shop is asked for: a search, a page, an order, each by another visitor."""
    asked = []
    for number in range(100):
        session = f"{number * 2654435761 % 2**32:08x}" * 4
        query = f"q=running+shoes+size+{number}&page={number % 7}&sort=price_asc&colour=dark%20blue&from=2026-11-{number % 28 + 1:02}"
        asked.append((f"/?{query}", {**BROWSER, "Cookie": f"session={session}; theme=dark; consent=all-{number}"}))
    rules = Path(__file__).resolve().parents[2] / "target/tools/coreruleset"
    if not (rules / "rules").is_dir():
        raise Failure(f"{rules} is not there: tests/run setup")
    settings = directory / "waf.conf"
    settings.write_text(
        "SecRuleEngine On\nSecRequestBodyAccess On\nSecAuditEngine Off\n"
        f"Include {rules}/crs-setup.conf.example\nInclude {rules}/rules/*.conf\n")
    return Work(asked, {"WAF": settings, "MODSECURITY": MODSECURITY})


SETUPS = {"waf": waf, "tls": tls, "gateway": gateway, "api-key": api_key, "headers": headers, "routes": routes, "cache": cache,
          "keys": keys, "endpoints": endpoints, "workers": workers}


def base64url(data):
    """Base64 as in a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_tokens(directory, count):
    """RS256 tokens (2048 bits), each with its own subject and valid for a day; the public key as PEM and as key set."""
    key, public, jwks, kept = (directory / name for name in ("rsa.pem", "public.pem", "jwks.json", "tokens.json"))
    if not kept.exists():
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], **QUIET)
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], **QUIET)
        modulus = subprocess.run(["openssl", "rsa", "-in", key, "-noout", "-modulus"], **QUIET).stdout
        number = bytes.fromhex(modulus.decode().strip().partition("=")[2])
        one = {"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "n": base64url(number), "e": base64url(b"\x01\x00\x01")}
        jwks.write_text(json.dumps({"keys": [one]}))
        kept.write_text(json.dumps([token(key, number) for number in range(count)]))
        public.chmod(0o644)
    return json.loads(kept.read_text()), public, jwks


def token(key, number):
    """One of them."""
    now = int(time.time())
    head = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    claims = {"iss": "https://idp.example", "aud": "load", "sub": f"user-{number}", "iat": now, "exp": now + 86400}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
    made = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=signed.encode(), **QUIET)
    return f"{signed}.{base64url(made.stdout)}"


def certificate(folder):
    """An ECDSA key (P-256) and a certificate for a.test; the same ones for the same folder."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    if not cert.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test", "-keyout", key, "-out", cert], **QUIET)
    return key, cert
