//! A file with endpoints: a YAML (or JSON) list as in `endpoints`, of addresses alone.
//!
//! It is looked at twice a second, also behind symbolic links, so that it does not matter how it is replaced.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Found, Member};
use crate::{
    config::endpoint::{Endpoint, Target},
    runtime::Ready,
};

const STEP: Duration = Duration::from_millis(500);

/// A file of endpoints is never so large.
const MAX_SIZE: u64 = 16 << 20;

/// What changes with a file: device, inode, size, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

#[expect(clippy::infinite_loop, reason = "ends by being dropped")]
pub(super) async fn run(found: Arc<Found>, path: PathBuf, ready: Ready) {
    let mut ready = Some(ready);
    let mut last: Option<Result<Stamp, String>> = None;
    loop {
        let now = stamp(&path);
        // A file that is still being written is not whole: it is read again if it changes once more.
        if last.as_ref() != Some(&now) {
            let answer = match &now {
                Ok(_) => read(&path),
                Err(why) => Err(why.clone()),
            };
            if found.take(answer).is_err() {
                log::debug!("{}: waits for a change", path.display());
            }
            last = Some(now);
        }
        drop(ready.take());
        tokio::time::sleep(STEP).await;
    }
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    let known = fs::metadata(path).map_err(|error| error.to_string())?;
    Ok((known.dev(), known.ino(), known.size(), known.mtime(), known.mtime_nsec()))
}

fn read(path: &Path) -> Result<Vec<Member>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_SIZE {
        return Err("the file is larger than 16 MiB".into());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Member>, String> {
    let endpoints: Vec<Endpoint> = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map_or_else(String::new, |at| format!("line {}: ", at.line()));
        let text = error.without_snippet().to_string();
        let text = text.lines().next().unwrap_or_default();
        format!("{place}{}", text.split(" at line ").next().unwrap_or(text))
    })?;
    endpoints.into_iter().map(member).collect()
}

fn member(endpoint: Endpoint) -> Result<Member, String> {
    if matches!(endpoint.address, Target::Dns { .. }) {
        return Err(format!("{} is a name: only addresses may stand here", endpoint.address));
    }
    Ok(Member {
        address: endpoint.address,
        weight: endpoint.weight.get(),
        priority: endpoint.priority,
        zone: endpoint.zone.map(|zone| zone.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_addresses_is_read_as_in_the_configuration() {
        let members =
            parse("- 10.0.0.1:80\n- { address: \"[::1]:80\", weight: 3, priority: 1, zone: a }\n- unix:/run/a.sock\n")
                .unwrap();
        assert_eq!(members.len(), 3);
        assert_eq!((members[1].weight, members[1].priority, members[1].zone.as_deref()), (3, 1, Some("a")));
        assert_eq!(parse("[\"10.0.0.1:80\"]").unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_list_of_addresses_is_refused_with_the_reason() {
        for (text, reason) in [
            ("- a.example:80", "only addresses"),
            ("- 10.0.0.1:80\n- 10.0.0.1", "line 2"),
            ("endpoints: []", ""),
            ("- { address: 10.0.0.1:80, wieght: 2 }", "wieght"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
