//! The files that belong to the pages: style, scripts, icon. They are part of the program, so nothing is fetched from
//! anywhere else.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

const STYLE: &str = include_str!("assets/style.css");
const THEME: &str = include_str!("assets/theme.js");
const PAGES: &str = include_str!("assets/pages.js");
const ICON: &str = include_str!("assets/icon.svg");

/// A text that is another whenever one of the files is.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        // FNV-1a: it has to tell versions apart, not to withstand anybody.
        let bytes = [STYLE, THEME, PAGES, ICON].into_iter().flat_map(str::bytes);
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    });
    &VERSION
}

/// One of the files. Its address changes with it, so it may be kept for ever.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let (kind, content) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "theme.js" => ("text/javascript; charset=utf-8", THEME),
        "pages.js" => ("text/javascript; charset=utf-8", PAGES),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")], content).into_response()
}
