//! What the pages show, and the keys that lead through them.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::Dashboard;
use super::frame::{Frame, Section};
use super::problem::{Problem, show};

#[derive(Template)]
#[template(path = "help.html")]
struct Page {
    frame: Frame,
}

pub(super) async fn page(State(dashboard): State<Dashboard>) -> Result<Response, Problem> {
    show(&Page { frame: dashboard.frame(Section::Help, "Help") })
}
