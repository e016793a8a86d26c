//! A job's news as server-sent events.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use hyperscale_gate::{Reply, Request};
use hyperscale_model::{ClientId, JobId};
use hyperscale_node::Part;
use serde::Serialize;

use crate::handlers::parse_job;
use crate::problem::Problem;
use crate::{Api, Caller};

/// The news of a job from the last event on that the client has seen. A slow client is asked for
/// no more than it takes: it gets the newest view when it comes back for it.
pub(crate) async fn follow(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let job = parse_job(&job)?;
    let after = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    // A job that is not there is an answer of its own, not a stream without news.
    let first = watch(&api, &client, job, after).await?;
    let following = Following { api, client, job, after, first: Some(first), is_over: false };
    let news = stream::unfold(following, Following::next).flat_map(stream::iter);
    Ok(Sse::new(news.map(Ok)).keep_alive(KeepAlive::default()))
}

async fn watch(api: &Api, client: &ClientId, job: JobId, after: u64) -> Result<Reply, Problem> {
    api.watch(client.clone(), Request::Watch { job, after }).await
}

/// How often, and how many times, a gate is asked for a job that is on its way to another gate.
const MOVE_PAUSE: Duration = Duration::from_millis(250);
const MOVE_TRIES: u32 = 60;

struct Following {
    api: Api,
    client: ClientId,
    job: JobId,
    after: u64,
    first: Option<Reply>,
    is_over: bool,
}

impl Following {
    /// Asks for news. A job whose gate is gone has another soon: the stream waits for that.
    async fn ask(&self) -> Result<Reply, Problem> {
        let mut tries = 0;
        loop {
            match watch(&self.api, &self.client, self.job, self.after).await {
                Err(problem) if problem.kind == "not-ready" && tries < MOVE_TRIES => {
                    tries += 1;
                    tokio::time::sleep(MOVE_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    async fn next(mut self) -> Option<(Vec<Event>, Self)> {
        if self.is_over {
            return None;
        }
        let reply = match self.first.take() {
            Some(first) => Ok(first),
            None => self.ask().await,
        };
        let mut told = Vec::new();
        match reply {
            Ok(Reply::News { events, view, is_over }) => {
                for event in events {
                    // A gap in the numbers is what the gate did not keep for so slow a client.
                    let missed = event.id.saturating_sub(self.after + 1);
                    self.api.front.counts.events_dropped.fetch_add(missed, Ordering::Relaxed);
                    self.after = event.id;
                    told.push(self.named("event", &event).id(event.id.to_string()));
                }
                if let Some(view) = view {
                    told.push(self.named("view", &view));
                }
                if is_over {
                    self.is_over = true;
                    told.push(self.named("end", &self.job));
                }
            }
            Ok(_) => self.is_over = true,
            Err(problem) => {
                self.is_over = true;
                told.push(self.named("problem", &problem));
            }
        }
        Some((told, self))
    }

    fn named<T: Serialize>(&self, name: &str, value: &T) -> Event {
        match Event::default().event(name).json_data(value) {
            Ok(event) => event,
            Err(error) => {
                self.api.front.counts.events_dropped.fetch_add(1, Ordering::Relaxed);
                let observer = &self.api.front.observer;
                if let Some(held_back) = observer.trouble(Part::Web, "event", name) {
                    let job = self.job;
                    tracing::error!(%job, name, %error, held_back, "an event cannot be written");
                }
                Event::default().comment("unwritable")
            }
        }
    }
}
