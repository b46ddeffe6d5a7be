//! The page at `/`: files that are part of the binary, and the headers that keep foreign code out of it.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;

/// A file of the page: its route, its type, its content.
type File = (&'static str, &'static str, &'static str);

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const FILES: [File; 12] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page/style.css", STYLE, include_str!("page/style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("page/main.js")),
    ("/page/format.js", SCRIPT, include_str!("page/format.js")),
    ("/page/table.js", SCRIPT, include_str!("page/table.js")),
    ("/page/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/page/endpoints.js", SCRIPT, include_str!("page/endpoints.js")),
    ("/page/decisions.js", SCRIPT, include_str!("page/decisions.js")),
    ("/page/explanation.js", SCRIPT, include_str!("page/explanation.js")),
    ("/page/uplot/uPlot.iife.min.js", SCRIPT, include_str!("page/uplot/uPlot.iife.min.js")),
    ("/page/uplot/uPlot.min.css", STYLE, include_str!("page/uplot/uPlot.min.css")),
];

/// Nothing but the page's own files, and no code in the document itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One route per file.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, content)| {
        router.route(path, get(move || async move { ([(header::CONTENT_TYPE, content_type)], content) }))
    })
}

/// Tells browsers to trust nothing that is not written here, and to ask again each time.
pub(super) async fn with_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
