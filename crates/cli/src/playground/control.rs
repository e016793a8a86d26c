//! How the subcommands ask a playground: a line of JSON to a socket in its directory, and one back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::cannot;
use super::world::Seen;
use crate::exit::{Exit, Failure};

/// Whoever asks does so at once; a node that is killed or started takes a moment.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Wishes that may wait for each other.
const WISHES_MAX: usize = 16;

/// What a playground can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub(super) enum Wish {
    List,
    Kill { name: String },
    Freeze { name: String },
    Thaw { name: String },
    Restart { name: String },
    Cut { names: Vec<String> },
    Slow { name: String, delay: Duration },
    Lose { name: String, loss: u8 },
    Heal,
}

/// What was done in a sentence, and how everything is now; or why not.
type Told = Result<(String, Seen), String>;

/// Where the state of a playground is written.
pub(super) fn state_file(directory: &Path) -> PathBuf {
    directory.join("playground.json")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("control")
}

/// The end that answers.
#[derive(Debug)]
pub(super) struct Control(mpsc::Receiver<(Wish, Asker)>);

impl Control {
    pub(super) fn listen(directory: &Path) -> Result<Self, Failure> {
        let path = socket(directory);
        let listener = UnixListener::bind(&path).map_err(|error| cannot(&path, &error))?;
        let (sender, wishes) = mpsc::channel(WISHES_MAX);
        tokio::spawn(hear(listener, sender));
        Ok(Self(wishes))
    }

    /// The next wish. Nothing is lost if this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Option<(Wish, Asker)> {
        self.0.recv().await
    }
}

async fn hear(listener: UnixListener, wishes: mpsc::Sender<(Wish, Asker)>) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "nobody can be heard");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let wishes = wishes.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            let read = tokio::time::timeout(ASKED_WITHIN, stream.read_line(&mut line)).await;
            // Whoever says nothing that can be read gets no answer.
            if let (Ok(Ok(_)), Ok(wish)) = (read, serde_json::from_str(&line)) {
                let told = wishes.send((wish, Asker(stream))).await;
                debug_assert!(told.is_ok() || wishes.is_closed(), "the playground is ending");
            }
        });
    }
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) struct Asker(BufReader<UnixStream>);

impl Asker {
    pub(super) async fn send(mut self, told: Told) {
        let sent = match serde_json::to_string(&told) {
            Ok(text) => self.0.write_all(format!("{text}\n").as_bytes()).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "nobody waits for the answer");
        }
    }
}

/// Asks the playground in a directory.
pub(super) async fn ask(directory: &Path, wish: &Wish) -> Result<(String, Seen), Failure> {
    let not_running = |error: &std::io::Error| {
        let what = format!(
            "no playground runs in {}; `hyperscale playground` starts one, --dir names its place",
            directory.display()
        );
        Failure::caused(Exit::Refused, &what, error)
    };
    let stream = UnixStream::connect(socket(directory)).await.map_err(|e| not_running(&e))?;
    let mut stream = BufReader::new(stream);
    let asked = async {
        let text = serde_json::to_string(wish)?;
        stream.write_all(format!("{text}\n").as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok::<Told, std::io::Error>(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(ANSWERED_WITHIN, asked).await {
        Ok(Ok(Ok(told))) => Ok(told),
        Ok(Ok(Err(why))) => Err(Failure::new(Exit::Invalid, why)),
        Ok(Err(error)) => Err(Failure::caused(Exit::Refused, "the playground has ended", &error)),
        Err(_late) => Err(Failure::new(Exit::Refused, "the playground does not answer")),
    }
}

/// Whether a playground runs in a directory.
pub(super) async fn is_answered(directory: &Path) -> bool {
    UnixStream::connect(socket(directory)).await.is_ok()
}

/// The nodes, with their process ids, that a playground has left which was killed itself.
pub(super) fn left_over(directory: &Path) -> Vec<String> {
    let path = state_file(directory);
    let seen: Option<Seen> = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .inspect_err(|error| {
                tracing::warn!(%error, path = %path.display(), "this file names no playground");
            })
            .ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "this file cannot be read");
            None
        }
    };
    let lives = |pid: u32| {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid).is_ok())
    };
    let nodes = seen.into_iter().flat_map(|seen| seen.nodes);
    nodes
        .filter_map(|node| Some((node.name, node.pid.filter(|pid| lives(*pid))?)))
        .map(|(name, pid)| format!("process {pid} ({name})"))
        .collect()
}

/// Takes away what says that a playground runs here.
pub(super) fn forget(directory: &Path) {
    for path in [socket(directory), state_file(directory)] {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "a file is left behind");
        }
    }
}
