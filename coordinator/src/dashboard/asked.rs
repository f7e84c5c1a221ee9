//! What is asked for in an address, and what comes in a form: read, or refused with a page that says what is wrong.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The query of an address.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) =
            Query::from_request_parts(parts, state).await.map_err(|error| Problem::bad_request(error.body_text()))?;
        Ok(Self(asked))
    }
}

/// What a form says.
pub(super) struct Form<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let axum::Form(form) =
            axum::Form::from_request(request, state).await.map_err(|error| Problem::bad_request(error.body_text()))?;
        Ok(Self(form))
    }
}

/// Forms send a field that was left empty as an empty text: then nothing is asked for.
pub(super) fn said(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

/// A name, if one was given.
pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Option<T>, Problem> {
    said(text).map(|text| text.parse::<T>().map_err(Problem::bad_request)).transpose()
}

/// One of a few words, if one was given.
pub(super) fn choice<T: Copy>(what: &str, text: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some(text) = said(text) else { return Ok(None) };
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(Some(*choice));
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    Err(Problem::bad_request(format!("`{text}` is no {what}: write {}", words.join(", "))))
}

#[cfg(test)]
mod tests {
    use shared::Kind;

    use super::*;

    #[test]
    fn a_field_that_is_left_empty_asks_for_nothing() {
        assert!(name::<Kind>(" ").is_ok_and(|kind| kind.is_none()));
        assert!(choice("state", "", &[("waiting", 1)]).is_ok_and(|choice| choice.is_none()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(name::<Kind>("a.b").is_err());
        assert!(choice("state", "asleep", &[("waiting", 1)]).is_err());
        assert!(choice("state", "waiting", &[("waiting", 1)]).is_ok_and(|choice| choice == Some(1)));
    }
}
