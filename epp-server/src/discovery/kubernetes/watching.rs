//! Watches one kind of objects, and says when that does not work.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use kube::core::Status;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Error, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_stream::StreamExt;

/// After so many seconds the API ends a watch, which is then taken up where it ended; a dead connection is noticed by that.
const WATCH_SECONDS: u32 = 60;

const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest time between two tries for what the server cannot do without.
pub(super) const NEEDED: Duration = Duration::from_secs(10);

/// Objects to watch.
pub(super) struct Watch<K: Resource> {
    /// What they are called in the log.
    pub(super) what: &'static str,
    /// Their API group, in the log too; empty for Kubernetes' own.
    pub(super) group: &'static str,
    pub(super) api: Api<K>,
    pub(super) kind: K::DynamicType,
    pub(super) config: Config,
    /// Drops what need not be kept of an object.
    pub(super) trim: fn(&mut K),
    /// The longest time between two tries.
    pub(super) longest_delay: Duration,
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Eq + Hash,
{
    /// Shows all objects, first when they are listed and then after every change, until the task is dropped.
    pub(super) async fn follow(self, mut show: impl FnMut(&[Arc<K>])) {
        let writer = Writer::new(self.kind);
        let objects = writer.as_reader();
        let trim = self.trim;
        let events = watcher(self.api, self.config.timeout(WATCH_SECONDS)).modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        });
        let mut events = pin!(events.reflect(writer));
        let mut retries = Retries::new(self.what, self.group, self.longest_delay);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                    retries.succeeded();
                    show(&objects.state());
                }
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    tracing::debug!(what = self.what, "watch is too old, listing again");
                }
                Err(error) => retries.failed(&Failure::of_watch(&error)).await,
            }
        }
    }
}

/// Why the API gave no answer, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    message: String,
    /// The API does not know this kind of objects.
    pub(super) is_unknown_kind: bool,
}

impl Failure {
    pub(super) fn of_client(error: &Error) -> Self {
        let is_unknown_kind = matches!(error, Error::Api(status) if status.code == 404);
        Self { message: client_error(error), is_unknown_kind }
    }

    fn of_watch(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of_client(error),
            watcher::Error::WatchError(status) => {
                Self { message: status_text(status), is_unknown_kind: false }
            }
            watcher::Error::NoResourceVersion => Self { message: error.to_string(), is_unknown_kind: false },
        }
    }
}

/// Tries again after longer and longer times, and logs what is new.
pub(super) struct Retries {
    what: &'static str,
    group: &'static str,
    builder: ExponentialBuilder,
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
    longest_delay: Duration,
    last: Option<Failure>,
}

impl Retries {
    pub(super) fn new(what: &'static str, group: &'static str, longest_delay: Duration) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(longest_delay)
            .with_jitter()
            .without_max_times();
        Self { what, group, builder, delays: builder.build(), longest_delay, last: None }
    }

    pub(super) fn succeeded(&mut self) {
        self.delays = self.builder.build();
        if self.last.take().is_some() {
            tracing::info!(what = self.what, group = self.group, "Kubernetes API answers again");
        }
    }

    /// Waits before the next try.
    pub(super) async fn failed(&mut self, failure: &Failure) {
        let (what, group, error) = (self.what, self.group, &failure.message);
        if self.last.as_ref() == Some(failure) {
            tracing::debug!(what, group, error, "Kubernetes API still gives no answer");
        } else if failure.is_unknown_kind && self.longest_delay > NEEDED {
            tracing::info!(what, group, "this kind of objects is not installed, it is looked for again");
        } else if failure.is_unknown_kind {
            tracing::warn!(what, group, "this kind of objects is not installed, the server waits for it");
        } else {
            tracing::warn!(
                what,
                group,
                error,
                "Kubernetes API gives no answer, the last known state stays in force"
            );
        }
        self.last = Some(failure.clone());
        tokio::time::sleep(self.delays.next().unwrap_or(self.longest_delay)).await;
    }
}

/// An error of the API as people read it.
pub fn client_error(error: &Error) -> String {
    match error {
        Error::Api(status) => status_text(status),
        Error::Service(cause) => chain(cause.as_ref()),
        other => chain(other),
    }
}

fn status_text(status: &Status) -> String {
    format!("{}, status `{}`", status.message.trim_end(), status.code)
}

/// An error and what caused it, each said once.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
