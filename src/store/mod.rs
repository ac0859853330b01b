//! Counts that several gateways share, in Redis or Valkey (`stores`).
//!
//! ```yaml
//! stores:
//!   counts:
//!     redis:
//!       servers: ["10.0.0.5:6379"]          # or mode: cluster, or mode: sentinel with master: NAME
//!       password: ${file:/run/credentials/torana.service/redis}
//!       tls: { ca: /etc/torana/redis-ca.pem }
//!       timeout: 50ms
//! ```
//!
//! - Requests of all threads share one connection, on which questions are sent without waiting for the answers to others.
//! - A question is answered within `timeout`, or it has failed. After three that were late in a row, or when the connection breaks, requests
//!   are told so at once, and the store is asked again in the background, every tenth of a second first, later every second. So a store that is
//!   dead or slow costs a request nothing.
//! - A server that has become a replica is left, and the sentinels are asked who is in charge now.
//! - Everything that reads and writes is one script, so nobody comes in between; the time is the server's.
//!
//! `torana_store_up` is 0 while it is away, `torana_store_failures_total` counts questions without an answer.

mod redis;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use ::redis::Script;
use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::timeout};

pub(crate) use self::redis::split;
use self::redis::{Dial, Live};
use crate::{
    config::{store, types::Name},
    runtime::{Build, Ready, State, Task},
    telemetry::store_metrics::StoreHandles,
};

/// After so many late answers in a row it is left alone.
const PATIENCE: u32 = 3;

/// How long a connection may take, and a first answer on it.
const DIAL: Duration = Duration::from_secs(2);

/// How long to wait before the next try to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How often it is asked whether it is there, where requests do not notice.
const CHECK: Duration = Duration::from_secs(1);

/// The store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// A store as all who use it share it.
pub struct Store {
    name: Name,
    prefix: String,
    timeout: Duration,
    dial: Dial,
    live: ArcSwapOption<Live>,
    /// Late answers in a row.
    late: AtomicU32,
    /// That it refuses something is in the log.
    told: AtomicBool,
    /// Something is wrong: look after it.
    wake: Notify,
    metrics: StoreHandles,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl State for Store {}

impl Store {
    /// The store of this name, which goes on over reloads that do not change it.
    pub(crate) fn compile(name: &Name, config: &store::Store, build: &mut Build<'_>) -> Result<Arc<Self>, String> {
        let dial = Dial::compile(&config.redis)?;
        let key = format!("store/{name}/{}", dial.fingerprint());
        let made = Self {
            name: name.clone(),
            prefix: config.redis.prefix.clone(),
            timeout: config.redis.timeout.0,
            dial,
            live: ArcSwapOption::empty(),
            late: AtomicU32::new(0),
            told: AtomicBool::new(false),
            wake: Notify::new(),
            metrics: build.metrics.store(name.as_str()),
        };
        let store = build.keep_as(key.clone(), || made);
        let task = Arc::clone(&store);
        build.background(Task::new(key, move |ready| task.look_after(ready)));
        Ok(store)
    }

    /// Its name in the file.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Goes before every key.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether it can be asked.
    pub fn is_up(&self) -> bool {
        self.live.load().is_some()
    }

    /// Runs a script on a key. It is only run if the store takes it in time; whether one whose answer was late has been run is not known.
    pub async fn run(&self, script: &Script, key: &[u8], arguments: &[i64]) -> Result<Vec<i64>, Away> {
        let Some(live) = self.live.load_full() else { return Err(self.failed()) };
        let mut call = script.prepare_invoke();
        call.key(key);
        for argument in arguments {
            call.arg(*argument);
        }
        match timeout(self.timeout, live.invoke(&call)).await {
            Ok(Ok(answer)) => {
                self.late.store(0, Ordering::Relaxed);
                if self.told.load(Ordering::Relaxed) {
                    self.told.store(false, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Ok(Err(error)) if redis::is_away(&error) => {
                self.leave(&live, &error.to_string());
                Err(self.failed())
            }
            // It is there, and does not do this: what is wrong with one key is no reason to leave the others alone.
            Ok(Err(error)) => {
                let level = if self.told.swap(true, Ordering::Relaxed) { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "store {} refuses: {error}", self.name);
                Err(self.failed())
            }
            Err(_) => {
                if self.late.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
                    self.leave(&live, "it does not answer in time");
                }
                Err(self.failed())
            }
        }
    }

    fn failed(&self) -> Away {
        self.metrics.failed();
        Away
    }

    /// Asks it no more until it has answered in the background.
    fn leave(&self, live: &Arc<Live>, why: &str) {
        let was = self.live.compare_and_swap(live, None);
        if was.as_ref().is_some_and(|was| Arc::ptr_eq(was, live)) {
            log::warn!("store {} is away: {why}", self.name);
            self.metrics.up(false);
            self.wake.notify_one();
        }
    }

    /// Connects, notices when it is gone, and connects again.
    #[expect(clippy::infinite_loop, reason = "it ends by being dropped")]
    async fn look_after(self: Arc<Self>, ready: Ready) {
        let mut ready = Some(ready);
        let mut pause = PAUSE.0;
        loop {
            let live = self.live.load_full();
            let result = match &live {
                Some(live) => live.ping(self.timeout.max(Duration::from_millis(200))).await,
                None => self.connect().await,
            };
            match (result, &live) {
                (Ok(()), _) => pause = PAUSE.0,
                (Err(why), Some(live)) => self.leave(live, &why),
                (Err(why), None) => {
                    log::log!(
                        if pause == PAUSE.0 { log::Level::Warn } else { log::Level::Debug },
                        "store {} cannot be asked: {why}",
                        self.name
                    );
                    self.metrics.up(false);
                }
            }
            drop(ready.take());
            if self.is_up() {
                _ = timeout(CHECK, self.wake.notified()).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    async fn connect(&self) -> Result<(), String> {
        let live = timeout(DIAL, self.dial.connect()).await.map_err(|_late| "no connection in time".to_owned())??;
        // One that hangs takes connections all the same.
        live.ping(self.timeout.max(Duration::from_millis(200))).await?;
        self.late.store(0, Ordering::Relaxed);
        self.live.store(Some(Arc::new(live)));
        self.metrics.up(true);
        log::info!("store {} is there", self.name);
        Ok(())
    }
}
