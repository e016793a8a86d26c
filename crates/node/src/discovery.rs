//! Where the managers are that a node joins: fixed addresses, names with one or several addresses,
//! and files that list both. Names are resolved and files read again and again: nodes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::observe::{Observer, Part};
use crate::storage::random;

/// Between two looks; each has some jitter.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same while something has no address.
pub(crate) const LOOK_SOON: Duration = Duration::from_secs(2);
/// Looks in a row without an address after which it counts as gone: a name server that is ill for
/// a moment must not break links that are well.
const MISSES_MAX: u32 = 3;
/// Addresses of one seed that are called. More are a mistake.
const ADDRESSES_MAX: usize = 100;
/// Largest file of addresses.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The addresses behind a seed now: `HOST:PORT`, or `@PATH` of a file with one of them a line, where
/// `#` begins a remark.
pub(crate) async fn addresses(seed: &str) -> io::Result<BTreeSet<SocketAddr>> {
    let mut found = BTreeSet::new();
    match seed.strip_prefix('@') {
        None => found.extend(tokio::net::lookup_host(seed).await?),
        Some(path) => {
            if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
                return Err(io::Error::other(format!("{path} is too large to list nodes")));
            }
            let text = std::fs::read_to_string(path)?;
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
            for line in lines.filter(|line| !line.is_empty()) {
                match tokio::net::lookup_host(line).await {
                    Ok(addresses) => found.extend(addresses),
                    // The others are there all the same.
                    Err(error) => tracing::debug!(path, line, %error, "no address"),
                }
            }
        }
    }
    Ok(found.into_iter().take(ADDRESSES_MAX).collect())
}

/// Calls whatever a seed names, as long as it names it. `call` begins to call an address for ever.
pub(crate) async fn follow(
    seed: String,
    observer: Arc<Observer>,
    call: impl Fn(SocketAddr) -> AbortHandle,
) {
    let mut called = Called::default();
    loop {
        let found = addresses(&seed).await;
        let is_whole = found.as_ref().is_ok_and(|found| !found.is_empty());
        let why = match found {
            Ok(found) => {
                called.look(&seed, &found, &call);
                "it names nobody".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if !is_whole && let Some(held_back) = observer.trouble(Part::Link, "no address", &seed) {
            tracing::warn!(%seed, why, held_back, "nobody to call; looking again");
        }
        pause(if is_whole { LOOK_EVERY } else { LOOK_SOON }).await;
    }
}

/// Waits for the time of the next look, and up to a second more, so that not all nodes look at once.
pub(crate) async fn pause(until_next: Duration) {
    let jitter = Duration::from_millis(random().unwrap_or(0) % 1_000);
    tokio::time::sleep(until_next + jitter).await;
}

/// The addresses that are called, each with the looks in a row that did not find it.
#[derive(Debug, Default)]
struct Called(BTreeMap<SocketAddr, (AbortHandle, u32)>);

impl Called {
    fn look(
        &mut self,
        seed: &str,
        found: &BTreeSet<SocketAddr>,
        call: impl Fn(SocketAddr) -> AbortHandle,
    ) {
        self.0.retain(|address, (handle, misses)| {
            *misses = if found.contains(address) { 0 } else { *misses + 1 };
            let stays = *misses < MISSES_MAX;
            if !stays {
                tracing::info!(seed, %address, "this address is named no more");
                handle.abort();
            }
            stays
        });
        for &address in found {
            self.0.entry(address).or_insert_with(|| {
                tracing::debug!(seed, %address, "a new address");
                (call(address), 0)
            });
        }
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        self.0.values().for_each(|(handle, _)| handle.abort());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test]
    async fn a_file_lists_addresses_with_remarks_and_what_has_none_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("managers");
        std::fs::write(
            &path,
            "# all\n127.0.0.1:1\n\n 127.0.0.1:2 # the second\nnowhere.invalid:3\n",
        )
        .unwrap();
        let seed = format!("@{}", path.display());

        assert_eq!(addresses(&seed).await.unwrap(), [at(1), at(2)].into());
        assert_eq!(addresses("127.0.0.1:7").await.unwrap(), [at(7)].into());
        std::fs::remove_file(&path).unwrap();
        assert!(addresses(&seed).await.is_err());
    }

    #[tokio::test]
    async fn what_is_named_no_more_is_called_no_more_after_a_while() {
        let started = RefCell::new(Vec::new());
        let call = |address| {
            started.borrow_mut().push(address);
            tokio::spawn(std::future::pending::<()>()).abort_handle()
        };
        let mut called = Called::default();
        called.look("managers", &[at(1), at(2)].into(), call);
        called.look("managers", &[at(2)].into(), call);
        called.look("managers", &[at(1), at(2)].into(), call);
        assert_eq!(*started.borrow(), [at(1), at(2)], "one miss changes nothing");

        for _ in 0..MISSES_MAX {
            called.look("managers", &[at(2), at(3)].into(), call);
        }

        assert_eq!(*started.borrow(), [at(1), at(2), at(3)]);
        assert_eq!(called.0.keys().copied().collect::<Vec<_>>(), [at(2), at(3)]);
    }
}
