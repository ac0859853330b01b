//! Mistakes in policies are refused in words that say what to do.

use super::tests::messages;

/// A policy, and what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    ("- jwt: { audience: a }", "where do the keys come from?"),
    ("- jwt: { audience: a, issuer: idp }", "`https://` address"),
    ("- jwt: { issuer: \"https://a\" }", "without `audience`"),
    ("- jwt: { audience: a, jwks_url: \"http://a/\" }", "without TLS"),
    ("- jwt: { audience: a, jwks_url: \"https://a/\", jwks_file: a }", "one source"),
    ("- jwt: { audience: a, keys: [{ algorithm: HS256, secret: short }] }", "at least 32 bytes"),
    ("- jwt: { audience: a, keys: [{ algorithm: RS256, secret: x }] }", "`public_key`"),
    ("- jwt: { audience: a, keys: [{ algorithm: none, secret: x }] }", "unknown value `none`"),
    ("- deprecation: { since: 2026-13-01 }", "expected a day"),
    ("- deprecation: { since: \"2026-02-01\", sunset: \"2026-01-01\" }", "gone before it is deprecated"),
    ("- deprecation: { since: \"2026-02-01\", link: \"a b\" }", "expected an address"),
    ("- any_of: []", "at least one method"),
    ("- any_of: [{ cors: { origins: [\"*\"] } }]", "does not find out who is calling"),
    ("- any_of: [{ anonymous: web }, { api_key: {} }]", "the last one"),
    ("- any_of: [{ api_key: {}, mode: shadow }]", "stands beside `any_of`"),
    ("- any_of: [{ api_key: { header: x-consumer-id } }]", "only the gateway"),
    ("- any_of: [{ forward_auth: { upstream: u, path: /v } }, { api_key: {} }]", "the last one"),
    ("- forward_auth: { upstream: u, path: /v, response_headers: [content-length] }", "is about the message"),
    ("- forward_auth: { upstream: u, path: /v, consumer_header: host }", "is about the message"),
    ("- forward_auth: { upstream: pu, path: /v }", "no upstream is named `pu`"),
    (
        "- api_key: {}\n- identity_token: { issuer: a, audience: b, key: x, header: x-consumer-id }",
        "says something else",
    ),
    ("- api_key: {}\n- identity_token: { issuer: a, audience: b, key: x }", "no private key in PEM"),
    ("- hmac: { components: [Host] }", "a header in small letters"),
    ("- hmac: { region: x }", "is for `scheme: aws_sigv4`"),
    ("- introspection: { upstream: u, path: v, client_id: a, client_secret: b }", "begins with `/`"),
    (OIDC, "nobody can log in"),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: short }",
        "`openssl rand -hex 32`",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/\", session_secret: 0123456789abcdef0123456789abcdef }",
        "a path of its own",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b?c\", session_secret: 0123456789abcdef0123456789abcdef }",
        "a path of its own",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://other/else\", session_secret: 0123456789abcdef0123456789abcdef }",
        "no route with it takes that",
    ),
    (
        "- oidc: { issuer: \"http://a\", client_id: a, redirect_uri: \"http://a/b\", session_secret: 0123456789abcdef0123456789abcdef }",
        "take over sessions",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef, scopes: [email] }",
        "`openid`",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef, logout_path: /b }",
        "at this path already",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef, logout_path: /b/../c }",
        "normal form",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef, after_logout: //evil }",
        "expected a path",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef, parameters: { state: a } }",
        "the gateway itself says",
    ),
    (
        "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a.b/c\", session_secret: 0123456789abcdef0123456789abcdef, cookie: { domain: c.b } }",
        "a domain that the host",
    ),
    (
        "- any_of: [{ oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef } }, { api_key: {} }]",
        "the last one",
    ),
    ("- ldap: { url: \"ldap://a\", user_dn: \"uid={username}\" }", "passwords can be read"),
    ("- ldap: { url: \"http://a\", user_dn: \"uid={username}\" }", "expected an address"),
    ("- ldap: { url: \"ldaps://a\" }", "where are the users?"),
    ("- ldap: { url: \"ldaps://a\", user_dn: \"uid=a\" }", "everybody would be the same"),
    ("- ldap: { url: \"ldaps://a\", search: { base: a, filter: \"(uid=a)\" } }", "it would find everybody"),
    ("- ldap: { url: \"ldaps://a\", search: { base: a, filter: \"((uid={username})\" } }", "this is no filter"),
    ("- ldap: { url: \"ldaps://a\", search: { base: a, bind_dn: b } }", "go together"),
    ("- ldap: { url: \"ldaps://a\", start_tls: true, user_dn: \"uid={username}\" }", "begins with TLS"),
    ("- forward_auth: { upstream: u, path: /v }\n- groups: { any: [gold] }", "without `consumer_header`"),
    (OTHER, "the same cookie"),
    (
        "- api_key: {}\n- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef }",
        "write `any_of`",
    ),
    (
        "- oidc: { issuer: \"https://a/.well-known/openid-configuration\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef }",
        "before `/.well-known/`",
    ),
    ("- anonymous: wbe", "did you mean `web`?"),
    ("- groups: { any: [gold] }", "no policy of this route finds out who is calling"),
    ("- api_key: {}\n- groups: {}", "which groups?"),
    ("- scopes: { any: [a] }", "no policy of this route finds out who is calling"),
    ("- api_key: {}\n- claims: [{ claim: a }]", "what has to hold of it?"),
    ("- api_key: {}\n- authorize: {}", "what has to hold?"),
    ("- authorize: { allow: [\"consumer.name == 'a'\"] }", "no policy of this route finds out who is calling"),
    ("- api_key: {}\n- authorize: { deny: [\"request.methode == 'a'\"] }", "`request` has no `methode`"),
    ("- basic: { remember: 2h }", "an hour at most"),
    ("- jwt: { issuer: \"https://a\", audience: a, realm: 'a\"b' }", "a realm consists of"),
    ("- api_key: { header: x-consumer-id }", "only the gateway"),
    ("- rate_limit: { key: consumer, limits: [] }", "at least one limit"),
    ("- rate_limit: { key: consumer, limits: [1/s, 2/s] }", "same period"),
    ("- rate_limit: { key: consumers, limits: [1/s] }", "consumers"),
    ("- rate_limit: { key: [], limits: [1/s] }", "nothing to count by"),
    ("- cors: { origins: [\"*\"], credentials: true }", "every origin has to be named"),
    ("- cors: { origins: [] }", "at least one origin"),
    ("- ip_restriction: {}", "at least one address"),
    ("- waf: {}", "at least one rule"),
    ("- waf: { files: [a], body: 65KiB }", "at most 64KiB"),
    ("- request_headers: {}", "nothing to `set`"),
    ("- request_headers: { set: { host: a } }", "`host` of the route"),
    ("- request_headers: { set: { x-a: \"{path.idd}\" } }", "did you mean `id`?"),
    ("- request_headers: { remove: [x-consumer-id] }", "only authentication"),
    ("- response_headers: { set: { content-length: \"1\" } }", "the gateway itself sets it"),
    ("- request_id: { header: connection }", "belongs to one connection"),
];

const OIDC: &str = "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef }\n  mode: shadow";

const OTHER: &str = "- oidc: { issuer: \"https://a\", client_id: a, redirect_uri: \"https://a/b\", session_secret: 0123456789abcdef0123456789abcdef }\n- oidc: { issuer: \"https://c\", client_id: a, redirect_uri: \"https://a/d\", session_secret: 0123456789abcdef0123456789abcdef }";

#[test]
fn mistakes_are_explained() {
    for (policies, message) in MISTAKES {
        let messages = messages(policies);
        assert!(messages.contains(message), "{policies}: {messages}");
    }
}
