//! Asks the mesh, beside the drawing: nothing that is drawn ever waits for the network.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join;
use serde_json::{Value, json};
use shared::Client;
use shared::api::Event;
use tokio::sync::{mpsc, watch};

use super::model::{Failure, News, Order};
use super::page::Page;
use crate::cli::api::{self, Api};
use crate::cli::output::{self, escape};
use crate::roll_call;

/// How often coordinators are asked whether they are there: they come and go seldom.
const ROLL_CALLS: Duration = Duration::from_secs(5);

/// So many rows of a table are asked for: more than anybody reads, and not more than is bearable each second.
const ROWS: usize = 1000;

/// Asks the mesh, and hands on what it says.
#[derive(Clone)]
pub(super) struct Fetcher {
    api: Arc<Api>,
    client: Client,
    news: mpsc::Sender<News>,
}

impl Fetcher {
    pub(super) fn new(api: Api, client: Client, news: mpsc::Sender<News>) -> Self {
        Self { api: Arc::new(api), client, news }
    }

    /// Fetches what the page shows that is looked at, again and again, and at once when it is another.
    pub(super) async fn watch(self, mut page: watch::Receiver<Page>, interval: Duration) {
        loop {
            let shown = *page.borrow_and_update();
            let (status, rest) = join(self.ask("mesh", "status", &json!({})), self.look(shown)).await;
            let mut news = vec![News::Status(status)];
            news.extend(rest);
            for news in news {
                if self.news.send(news).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                changed = page.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn look(&self, page: Page) -> Vec<News> {
        if let Some((noun, verb, asked)) = page.list() {
            // What has pages is asked for page by page; what has not would refuse that.
            let answer = match verb {
                "list" if noun != "alert" => self.api.list(noun, &asked, ROWS).await.map_err(|error| failure(&error)),
                _ => self.ask(noun, verb, &asked).await,
            };
            return vec![News::Table(page, answer)];
        }
        if page == Page::Events {
            return Vec::new();
        }
        let waiting = json!({ "state": "waiting", "limit": 1 });
        let (nothing, firing) = (json!({}), json!({ "state": "firing" }));
        let (resources, (alerts, oldest)) = join(
            self.ask("resource", "list", &nothing),
            join(self.ask("alert", "list", &firing), self.ask("task", "list", &waiting)),
        )
        .await;
        vec![News::Resources(resources), News::Alerts(alerts), News::Oldest(oldest)]
    }

    /// Fetches more about a row.
    pub(super) async fn details(self, page: Page, id: String) {
        let Some((noun, verb)) = page.details() else { return };
        let answer = self.ask(noun, verb, &json!({ "id": id })).await;
        let _ = self.news.send(News::Details(page, id, answer)).await;
    }

    /// Does what the user has said yes to.
    pub(super) async fn carry(self, order: Order) {
        let Order { noun, verb, id, .. } = order;
        let mut asked = json!({ "id": id });
        if verb == "acknowledge" {
            asked["by"] = std::env::var("USER").unwrap_or_default().into();
        }
        let done = self.ask(noun, verb, &asked).await.map(drop);
        let _ = self.news.send(News::Done(format!("{noun} {id}: {verb}"), done)).await;
    }

    async fn ask(&self, noun: &str, verb: &str, asked: &Value) -> Result<Value, Failure> {
        self.api.ask(noun, verb, asked).await.map_err(|error| failure(&error))
    }

    /// Hears what happens. What comes faster than it can be shown is counted and left out.
    pub(super) async fn hear(self) {
        let Ok(mut events) = self.client.nats().subscribe(self.client.subjects().events()).await else { return };
        let mut left_out = 0;
        while let Some(message) = events.next().await {
            let Ok(event) = serde_json::from_slice::<Event>(&message.payload) else { continue };
            if left_out > 0 && self.news.try_send(News::EventsLeftOut(left_out)).is_ok() {
                left_out = 0;
            }
            match self.news.try_send(News::Event(Box::new(event))) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => left_out += 1,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    /// Asks which coordinators there are, again and again.
    pub(super) async fn call_the_roll(self) {
        loop {
            let present = roll_call::call(self.client.nats(), self.client.subjects()).await;
            if self.news.send(News::Coordinators(present)).await.is_err() {
                return;
            }
            tokio::time::sleep(ROLL_CALLS).await;
        }
    }
}

fn failure(error: &api::Error) -> Failure {
    let is_down = [output::UNREACHABLE, output::TIMED_OUT].contains(&error.exit_code());
    Failure { is_down, error: escape(&crate::chain(error)) }
}
