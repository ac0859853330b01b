//! `torana demo`: the gateway with endpoints of its own.

mod echo;

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use super::{complain, print, run::finish, start_logging};
use crate::{clock::Clock, config, server};

/// Arguments of `torana demo`.
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the admin listener listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Prints the configuration and ends, as a start for one of your own
    #[arg(long)]
    print_config: bool,
}

/// What the demo makes up for one run.
struct Scene {
    listen: SocketAddr,
    admin: SocketAddr,
    echoes: [SocketAddr; 2],
    api_key: String,
    secret: String,
}

impl Demo {
    pub(super) fn run(self) -> ExitCode {
        if self.print_config {
            let scene = Scene {
                listen: self.listen,
                admin: self.admin,
                echoes: [([127, 0, 0, 1], 9001).into(), ([127, 0, 0, 1], 9002).into()],
                api_key: "${env:DEMO_API_KEY}".into(),
                secret: "${env:DEMO_JWT_SECRET}".into(),
            };
            print(&scene.config());
            return ExitCode::SUCCESS;
        }
        start_logging();
        match self.start() {
            Ok(code) => code,
            Err(error) => {
                complain(&format!("error: {error}\n"));
                ExitCode::FAILURE
            }
        }
    }

    fn start(self) -> std::io::Result<ExitCode> {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let second = TcpListener::bind("127.0.0.1:0")?;
        // A port that is free now, so that the lines to try can name it.
        let free = |wanted: SocketAddr| match wanted.port() {
            0 => TcpListener::bind(wanted).and_then(|probe| probe.local_addr()),
            _ => Ok(wanted),
        };
        let scene = Scene {
            listen: free(self.listen)?,
            admin: free(self.admin)?,
            echoes: [first.local_addr()?, second.local_addr()?],
            api_key: format!("demo-{:016x}", rand::random::<u64>()),
            secret: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        };
        echo::serve("echo-1", first)?;
        echo::serve("echo-2", second)?;
        let config = match config::load_text(&scene.config(), "demo", Path::new("")) {
            Ok((config, _)) => config,
            Err(report) => return Ok(finish(Err(server::StartError::Config(report)))),
        };
        print(&scene.lines_to_try());
        let outcome = server::run(&config, server::Launch::default());
        if matches!(outcome, Err(server::StartError::Bind { .. })) {
            complain("hint: `torana demo --listen 127.0.0.1:0 --admin 127.0.0.1:0` takes ports that are free\n");
        }
        Ok(finish(outcome))
    }
}

impl Scene {
    fn config(&self) -> String {
        let [first, second] = self.echoes;
        format!(
            r#"# The configuration of `torana demo`.
admin: {{ address: "{admin}" }}
listeners:
  - address: "{listen}"

upstreams:
  echo:                                  # balances over two endpoints
    endpoints: ["{first}", "{second}"]
    health: {{ http: {{ path: /healthz }}, interval: 2s }}

consumers:
  demo_app:
    groups: [demo]
    api_keys: ["{api_key}"]

policies:                                # for every route
  - request_id: {{}}

routes:
  - name: open
    match: {{ path: {{ prefix: / }} }}
    public: true
    upstream: echo
  - name: with_key
    match: {{ path: "/key/{{rest...}}" }}
    policies:
      - api_key: {{ header: x-api-key }}
    rewrite: {{ path: "/{{rest}}" }}
    upstream: echo
  - name: with_token
    match: {{ path: "/token/{{rest...}}" }}
    policies:
      - jwt:
          issuer: https://demo.invalid
          audience: demo
          keys: [{{ algorithm: HS256, secret: "{secret}" }}]
          scopes: [read]
    upstream: echo
  - name: limited
    match: {{ path: /limited }}
    public: true
    policies:
      - rate_limit: {{ key: client_ip, limits: [5/10s] }}
    upstream: echo
"#,
            admin = self.admin,
            listen = self.listen,
            api_key = self.api_key,
            secret = self.secret,
        )
    }

    fn token(&self) -> String {
        let now = Clock::default().unix();
        let claims = serde_json::json!({
            "iss": "https://demo.invalid",
            "aud": "demo",
            "sub": "someone",
            "scope": "read",
            "iat": now.as_secs(),
            "exp": (now + Duration::from_hours(24)).as_secs(),
        });
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        // Signing with a secret of the right length cannot fail.
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap_or_default()
    }

    fn lines_to_try(&self) -> String {
        let at = format!("http://{}", self.listen);
        let mut text = String::from("\nTorana demo. Try, in another terminal:\n\n");
        let mut try_this = |what: &str, line: String| {
            // Writing to a string cannot fail.
            text.extend(["  # ", what, "\n  ", &line, "\n\n"]);
        };
        try_this(
            "balanced over two endpoints: the answers come from echo-1 and echo-2 in turn",
            format!("curl {at}/hello; curl {at}/hello"),
        );
        try_this(
            "a route with an API key: 401 without it, and the endpoint sees X-Consumer-Id with it",
            format!("curl -i {at}/key/orders; curl -H 'x-api-key: {}' {at}/key/orders", self.api_key),
        );
        try_this(
            "a route with a JWT (valid for a day)",
            format!("curl -H 'Authorization: Bearer {}' {at}/token/me", self.token()),
        );
        try_this(
            "a route with a rate limit: the sixth is refused with 429",
            format!("for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\\n' {at}/limited; done"),
        );
        try_this(
            "what the gateway says of itself",
            format!("curl http://{0}/status; curl http://{0}/metrics", self.admin),
        );
        text.push_str("Ctrl-C ends it. `torana demo --print-config` shows the configuration.\n\n");
        text
    }
}
