//! How a person at a browser shows a token: a form that keeps it in a cookie which no script can read, and no other site
//! can send.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{self, SET_COOKIE};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;

use super::guard::{Guard, lead_to};

/// The cookie that keeps a token.
pub(crate) const COOKIE: &str = "hive-token";

/// The form and what it does.
pub(super) fn router(guard: Arc<Guard>) -> Router {
    Router::new().route("/login", get(form).post(log_in)).route("/logout", post(log_out)).with_state(guard)
}

/// The token in a cookie, if there is one.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, secret)| secret)
}

/// Leads to the form, and from there back to what was asked for.
pub(super) fn page_for(wanted: &Uri) -> Response {
    let wanted = wanted.path_and_query().map_or("/", PathAndQuery::as_str);
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", local(wanted)).finish();
    lead_to(&format!("/login?{query}"))
}

async fn form(State(guard): State<Arc<Guard>>, RawQuery(query): RawQuery) -> Response {
    if !guard.has_tokens() {
        return lead_to("/");
    }
    let next = field(query.unwrap_or_default().as_bytes(), "next").unwrap_or_default();
    Html(page(local(&next), "")).into_response()
}

async fn log_in(State(guard): State<Arc<Guard>>, body: Bytes) -> Response {
    let (secret, next) = (field(&body, "token").unwrap_or_default(), field(&body, "next").unwrap_or_default());
    let (secret, next) = (secret.trim(), local(&next));
    if !guard.knows(secret) {
        return (StatusCode::UNAUTHORIZED, Html(page(next, "This token is not known."))).into_response();
    }
    with_cookie(lead_to(next), secret, guard.is_encrypted(), "")
}

async fn log_out(State(guard): State<Arc<Guard>>) -> Response {
    with_cookie(lead_to("/login"), "", guard.is_encrypted(), "; Max-Age=0")
}

fn with_cookie(mut response: Response, secret: &str, is_encrypted: bool, more: &str) -> Response {
    let secure = if is_encrypted { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict{secure}{more}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn field(form: &[u8], wanted: &str) -> Option<String> {
    form_urlencoded::parse(form).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// A path of ours; anything else would lead elsewhere, and becomes `/`. What it consists of needs no escaping in a page.
fn local(path: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~?=&%+,:".contains(&byte);
    if path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_plain) { path } else { "/" }
}

fn page(next: &str, said: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Hivemesh: log in</title>\n\
         <style>:root {{ color-scheme: light dark }} body {{ font: 1rem system-ui; max-width: 24rem; margin: 20vh auto; \
         padding: 0 1rem }} input, button {{ font: inherit; width: 100%; box-sizing: border-box; margin-top: .5rem; \
         padding: .5rem }}</style>\n</head>\n<body>\n<main>\n<h1>Hivemesh</h1>\n<p role=\"alert\">{said}</p>\n\
         <form method=\"post\" action=\"/login\">\n<input type=\"hidden\" name=\"next\" value=\"{next}\">\n\
         <label>Token <input type=\"password\" name=\"token\" autocomplete=\"current-password\" required autofocus></label>\n\
         <button>Log in</button>\n</form>\n</main>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_a_page_of_ours_and_to_no_other() {
        assert_eq!(local("/tasks?state=queued&limit=5"), "/tasks?state=queued&limit=5");
        for elsewhere in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/\"><script>", "/a\r\nb"] {
            assert_eq!(local(elsewhere), "/", "{elsewhere}");
        }
    }

    #[test]
    fn a_token_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("theme=dark; hive-token=hive_a"));

        assert_eq!(cookie(&headers), Some("hive_a"));
        assert_eq!(cookie(&HeaderMap::new()), None);
    }

    #[test]
    fn no_script_and_no_other_site_gets_at_the_cookie() {
        let cookie = |is_encrypted| {
            let response = with_cookie(lead_to("/"), "hive_a", is_encrypted, "");
            response.headers()[SET_COOKIE].to_str().unwrap().to_owned()
        };

        assert_eq!(cookie(false), "hive-token=hive_a; Path=/; HttpOnly; SameSite=Strict");
        assert!(cookie(true).ends_with("; Secure"));
    }
}
