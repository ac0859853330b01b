//! `ldap`: names and passwords of a real directory (Debian's slapd).

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::callers::basic;
use crate::support::{Authority, Gateway, Response, Upstream, eventually};

/// A directory with some people and groups. It ends when it is dropped.
struct Directory {
    server: Child,
    address: SocketAddr,
    secure: SocketAddr,
    folder: tempfile::TempDir,
}

const PEOPLE: &str = "dn: dc=example,dc=com
objectClass: domain
dc: example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit
ou: groups

dn: cn=gateway,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: gateway
userPassword: gateway-secret

dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
userPassword: wonderland

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
mail: root
userPassword: builder

dn: uid=x\\2Cy (z)*,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: x,y (z)*
cn: X
sn: X
mail: twin@example.com
userPassword: odd

dn: uid=twin,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: twin
cn: Twin
sn: T
mail: twin@example.com
userPassword: odd

dn: cn=editors,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: editors
member: uid=alice,ou=people,dc=example,dc=com
member: uid=bob,ou=people,dc=example,dc=com

dn: cn=admins,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: admins
member: cn=nobody
description: root

dn: cn=a\\2Cb,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: a,b
member: uid=alice,ou=people,dc=example,dc=com
";

impl Directory {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = {
            let authority = Authority::new("directory");
            std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
            authority.pair("localhost")
        };
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        std::fs::write(path("people.ldif"), PEOPLE).unwrap();
        std::fs::create_dir(path("db")).unwrap();
        let at = folder.path().display();
        let config = format!(
            "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {at}/cert.pem
TLSCertificateKeyFile {at}/key.pem
database mdb
maxsize 10485760
suffix \"dc=example,dc=com\"
directory {at}/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact=\"cn=gateway,dc=example,dc=com\" read by self read by anonymous auth by * none
"
        );
        std::fs::write(path("slapd.conf"), config).unwrap();
        run("/usr/sbin/slapadd", &["-q", "-f", &text(&path("slapd.conf")), "-l", &text(&path("people.ldif"))]);
        loop {
            let (address, secure) = (free(), free());
            let urls = format!("ldap://{address}/ ldaps://{secure}/");
            let mut server = Command::new("/usr/sbin/slapd")
                .args(["-d", "0", "-f", &text(&path("slapd.conf")), "-h", &urls])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("`tests/run setup` was run");
            let mut ended = false;
            eventually("the directory is there, or has ended", || {
                ended = server.try_wait().unwrap().is_some();
                ended || TcpStream::connect(address).is_ok()
            });
            // Somebody else may have taken the port meanwhile.
            if !ended {
                return Self { server, address, secure, folder };
            }
        }
    }

    fn file(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    fn end(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("`tests/run setup` was run");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

const SEARCH: &str = "search: { base: \"ou=people,dc=example,dc=com\", filter: \"(|(uid={username})(mail={username}))\", bind_dn: \"cn=gateway,dc=example,dc=com\", bind_password: gateway-secret }";
const USER_DN: &str = "user_dn: \"uid={username},ou=people,dc=example,dc=com\"";

fn start(policy: &str, up: &Upstream) -> Gateway {
    // Where all tests run at once, a handshake may take a while.
    let policy = if policy.contains("timeout:") { policy.to_owned() } else { format!("{policy}, timeout: 10s") };
    Gateway::start(&format!(
        "telemetry: {{ access_log: {{}} }}
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
consumers: {{ alice: {{ groups: [staff], metadata: {{ team: \"7\" }} }} }}
routes: [{{ name: r, policies: [{{ ldap: {{ {policy} }} }}], upstream: up }}]\n",
        up.address()
    ))
}

fn send(gateway: &Gateway, name: &str, password: &str) -> Response {
    gateway.send("GET", "/", &[("Authorization", &basic(name, password))])
}

#[test]
fn who_the_directory_knows_gets_in_with_the_groups_that_it_says() {
    let (directory, up) = (Directory::start(), Upstream::named("up"));
    let url = format!("url: \"ldap://{}\"", directory.address);
    let groups = "groups: { base: \"ou=groups,dc=example,dc=com\" }";
    let gateway = start(&format!("{url}, {SEARCH}, {groups}"), &up);
    let seen = |name: &str, password: &str| {
        assert_eq!(send(&gateway, name, password).status, 200, "{name}");
        let seen = up.last();
        assert_eq!(seen.header("authorization"), None);
        let of = |header| seen.header(header).map(str::to_owned);
        (of("x-consumer-id"), of("x-consumer-groups"))
    };
    let some = |text: &str| Some(text.to_owned());
    // Groups are those of who it is, and not of what was typed.
    let typed = start(
        &format!(
            "{url}, {SEARCH}, groups: {{ base: \"ou=groups,dc=example,dc=com\", filter: \"(description={{username}})\" }}"
        ),
        &up,
    );
    assert_eq!(send(&typed, "root", "builder").status, 200);
    assert_eq!((up.last().header("x-consumer-id"), up.last().header("x-consumer-groups")), (Some("bob"), None));
    // However somebody writes the name: it is one caller.
    for name in ["alice", "ALICE", "alice@example.com"] {
        assert_eq!(seen(name, "wonderland"), (some("alice"), some("staff,editors")));
    }
    assert_eq!(seen("bob", "builder"), (some("bob"), some("editors")));
    assert_eq!(seen("x,y (z)*", "odd"), (some("x,y (z)*"), None));
    for (name, password) in [
        ("alice", "builder"),
        ("alice", ""),
        ("", "wonderland"),
        ("nobody", "wonderland"),
        ("*", "wonderland"),
        ("al*", "wonderland"),
        ("alice)(uid=*", "wonderland"),
        ("alice\0", "wonderland"),
        ("twin@example.com", "odd"),
        ("cn=gateway,dc=example,dc=com", "gateway-secret"),
        (&"a".repeat(2_000), "x"),
    ] {
        let refused = send(&gateway, name, password);
        assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthenticated"), "{name}:{password}");
        assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"torana\", charset=\"UTF-8\""));
    }
    assert!(!gateway.log().contains("wonderland") && !gateway.log().contains("gateway-secret"));
}

#[test]
fn an_entry_is_named_by_a_pattern_that_a_name_cannot_leave() {
    let (directory, up) = (Directory::start(), Upstream::named("up"));
    let gateway = start(&format!("url: \"ldap://{}\", {USER_DN}", directory.address), &up);
    for name in ["alice", "Alice"] {
        assert_eq!(send(&gateway, name, "wonderland").status, 200);
        assert_eq!(up.last().header("x-consumer-id"), Some("alice"));
    }
    assert_eq!(send(&gateway, "x,y (z)*", "odd").status, 200);
    for name in [
        " alice",
        "alice ",
        "\u{ff41}lice",
        "al\u{ef}ce",
        "alice,ou=people",
        "bob",
        "alice,ou=people,dc=example,dc=com+uid=x",
    ] {
        assert_eq!(send(&gateway, name, "wonderland").status, 401, "{name}");
    }
}

#[test]
fn a_right_password_is_believed_for_a_while_and_a_directory_that_is_down_refuses_nobody_it_knows() {
    let (mut directory, up) = (Directory::start(), Upstream::named("up"));
    let gateway = start(&format!("url: \"ldap://{}\", {USER_DN}", directory.address), &up);
    assert_eq!(send(&gateway, "alice", "wonderland").status, 200);
    directory.end();
    assert_eq!(send(&gateway, "alice", "wonderland").status, 200);
    for (name, password) in [("alice", "other"), ("bob", "builder")] {
        let refused = send(&gateway, name, password);
        assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"));
    }
}

#[test]
fn a_directory_is_asked_over_tls_and_only_where_it_is_the_right_one() {
    let (directory, up) = (Directory::start(), Upstream::named("up"));
    let ca = format!("ca: \"{}\", {USER_DN}", directory.file("ca.pem"));
    let (plain, secure) = (directory.address.port(), directory.secure.port());
    for (url, status) in [
        (format!("url: \"ldaps://localhost:{secure}\", {ca}"), 200),
        (format!("url: \"ldap://localhost:{plain}\", start_tls: true, {ca}"), 200),
        (format!("url: \"ldaps://127.0.0.1:{secure}\", {ca}"), 503),
        (format!("url: \"ldaps://localhost:{secure}\", {USER_DN}"), 503),
        (format!("url: \"ldap://localhost:{plain}\", start_tls: true, {USER_DN}"), 503),
    ] {
        let gateway = start(&url, &up);
        assert_eq!(send(&gateway, "alice", "wonderland").status, status, "{url}: {}", gateway.log());
    }
}

#[test]
fn what_is_no_directory_lets_nobody_in() {
    let up = Upstream::named("up");
    for answer in ["", "HTTP/1.1 200 OK\r\n\r\n", "0\x0c\x02\x01\x01a\x07\n\x01\0\x04", "\u{0}\u{1}\u{2}"] {
        let fake = crate::support::Bare::start(move |stream, _| {
            use std::io::{Read as _, Write as _};
            let mut asked = [0; 512];
            drop(stream.read(&mut asked));
            drop(stream.write_all(answer.as_bytes()));
        });
        let gateway = start(&format!("url: \"ldap://{}\", timeout: 1s, {USER_DN}", fake.address()), &up);
        let refused = send(&gateway, "alice", "wonderland");
        assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"), "{answer:?}");
        assert_eq!(send(&gateway, "alice", "wonderland").status, 503, "and it still runs");
    }
    assert!(up.seen().is_empty());
}

/// What stands in `conf/examples/ldap.yaml` works with that directory.
#[test]
fn the_example_works() {
    let (directory, up) = (Directory::start(), Upstream::named("up"));
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples/ldap.yaml")).unwrap();
    let file = file.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9000", &up.address().to_string());
    let gateway = Gateway::start(&file.replace("127.0.0.1:3890", &directory.address.to_string()));
    let (_, login) = file.split_once("-u '").unwrap();
    let login = format!("Basic {}", STANDARD.encode(login.split('\'').next().unwrap()));
    assert_eq!(gateway.send("GET", "/", &[("Authorization", &login)]).status, 200);
    assert_eq!(up.last().header("x-consumer-groups"), Some("editors"));
    assert_eq!(gateway.get("/").status, 401);
}
