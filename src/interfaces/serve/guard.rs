//! Checks the host name, the origin and the token of each request, and adds security headers to each answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use hyper::body::Body as _;

use super::problem::Problem;
use super::telemetry::Telemetry;

const COOKIE: &str = "similiai";
/// The path that needs no token. It only says whether there is something to show.
pub const OPEN: &str = "/healthz";

/// Allows content from this server only, nothing inline, and no frame around the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(self), microphone=(), geolocation=()"),
];

/// Which requests are answered.
#[derive(Debug, Default)]
pub struct Access {
    /// Names of this server, besides `localhost` and IP addresses, which no foreign page can use as its own.
    pub hosts: Vec<String>,
    pub token: Option<Token>,
    /// The path below which a proxy passes requests on, such as `/pictures`; otherwise empty.
    pub base: String,
}

/// The digest of a secret. Comparing digests takes the same time for every wrong secret.
#[derive(Debug, Clone)]
pub struct Token(blake3::Hash);

impl Token {
    pub fn new(secret: &str) -> Self {
        Self(blake3::hash(secret.as_bytes()))
    }

    fn is(&self, secret: &str) -> bool {
        // `blake3::Hash` compares in constant time.
        self.0 == blake3::hash(secret.as_bytes())
    }

    /// Returns the cookie, as name and value. It gives access to this server and does not reveal the secret. Browsers
    /// share cookies between servers on different ports, so each token has a cookie of another name.
    fn cookie(&self) -> String {
        let key = blake3::keyed_hash(self.0.as_bytes(), COOKIE.as_bytes()).to_hex();
        let (name, value) = key.split_at(8);
        format!("{COOKIE}-{name}={value}")
    }

    fn is_cookie(&self, cookie: &str) -> bool {
        blake3::hash(self.cookie().as_bytes()) == blake3::hash(cookie.as_bytes())
    }
}

#[derive(Clone)]
pub struct Guard {
    pub access: Arc<Access>,
    pub telemetry: Arc<Telemetry>,
}

pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let has_body = !request.body().is_end_stream();
    // The address itself is never logged: it may contain a token, and queries are private.
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    let mut response = match guard.access.refusal(&request) {
        Some(refusal) => {
            guard.telemetry.refuse("access");
            refusal
        }
        None => next.run(request).await,
    };
    let (status, took) = (response.status().as_u16(), start.elapsed());
    if has_body && status >= 400 {
        // The body may not have been read to its end, so this connection cannot be used again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    guard.telemetry.answered(&route, status, took);
    tracing::debug!("{method} {route} {status} {:.1} ms", 1e3 * took.as_secs_f64());
    response
}

impl Access {
    fn refusal(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        if !self.is_right_host(request) {
            let why = "host name not allowed; to allow it, start the server with --allow-host NAME";
            return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong-host", why).into_response());
        }
        if is_of_another_page(request.method(), headers) || !self.is_from_here(headers) {
            let why = "requests from other pages are not answered";
            return Some(Problem::new(StatusCode::FORBIDDEN, "other-page", why).into_response());
        }
        let token = self.token.as_ref()?;
        let path = request.uri().path();
        if path == OPEN || is_told(token, headers) {
            return None;
        }
        if (path == "/" || path == self.base) && asked_with(request, token) {
            // Later requests of the page send the cookie. With `Lax`, browsers also send it if someone follows a link
            // on another page, but not with other requests of that page. The redirect removes the token.
            let base = &self.base;
            let cookie = format!("{}; HttpOnly; SameSite=Lax; Path={base}/", token.cookie());
            let asked = request.uri().query().unwrap_or_default().split('&');
            let rest: Vec<&str> = asked.filter(|part| !part.starts_with("token=")).collect();
            let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
            let address = format!("{base}/{rest}");
            return Some(([(header::SET_COOKIE, cookie)], Redirect::to(&address)).into_response());
        }
        let why = "this server needs a token: open /?token=TOKEN, or send `Authorization: Bearer TOKEN`";
        let mut response = Problem::new(StatusCode::UNAUTHORIZED, "no-token", why).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    /// Prevents DNS rebinding: a foreign page can make its own name lead to this server, but the browser then sends
    /// that name.
    fn is_right_host(&self, request: &Request) -> bool {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let named = request.uri().authority().map(|authority| authority.as_str());
        let Ok(host) = host.to_str() else { return false };
        self.is_own_name(host) && named.is_none_or(|named| self.is_own_name(named))
    }

    /// Checks the `Origin` header (RFC 6454). Browsers send it if the request may come from another page, even over
    /// plain HTTP, where they do not send fetch metadata.
    fn is_from_here(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Some((_, origin)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else { return false };
        // A proxy may send another name in `Host`. Then the page must come from one of the allowed names.
        let host = origin.rsplit_once(':').map_or(origin, |(host, _)| host).to_ascii_lowercase();
        let asked =
            headers.get(header::HOST).is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(origin.as_bytes()));
        asked || self.hosts.contains(&host)
    }

    fn is_own_name(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<axum::http::uri::Authority>() else { return false };
        let host = authority.host().to_ascii_lowercase();
        let number = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        number.parse::<IpAddr>().is_ok() || host == "localhost" || self.hosts.contains(&host)
    }
}

/// Uses what browsers say about the source of a request (W3C Fetch Metadata). Following a link is allowed.
fn is_of_another_page(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value.as_bytes() == wanted.as_bytes());
    let other = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    other && !(method == Method::GET && is("sec-fetch-mode", "navigate"))
}

fn is_told(token: &Token, headers: &HeaderMap) -> bool {
    let told = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    let told = told.is_some_and(|(scheme, secret)| scheme.eq_ignore_ascii_case("bearer") && token.is(secret));
    let mut cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    told || cookies.any(|all| all.split("; ").any(|cookie| token.is_cookie(cookie)))
}

fn asked_with(request: &Request, token: &Token) -> bool {
    #[derive(serde::Deserialize)]
    struct Asked {
        token: String,
    }
    let asked = axum::extract::Query::<Asked>::try_from_uri(request.uri());
    asked.is_ok_and(|asked| token.is(&asked.token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn status(access: &Access, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::get("/api/about");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        access.refusal(&request.body(Body::empty()).unwrap()).map(|response| response.status().as_u16())
    }

    #[test]
    fn only_names_that_no_other_page_can_take_are_answered() {
        let access = Access { hosts: vec!["pictures.example".to_owned()], ..Access::default() };
        for host in ["127.0.0.1:8501", "localhost", "LOCALHOST:1", "[::1]:8501", "192.168.0.7", "pictures.example:80"] {
            assert_eq!(status(&access, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8501", "127.0.0.1.evil.example", "", "a b"] {
            assert_eq!(status(&access, &[("host", host)]), Some(421), "{host}");
        }
        assert_eq!(status(&access, &[]), Some(421));
        assert_eq!(status(&access, &[("host", "localhost"), ("host", "localhost")]), Some(421));
    }

    #[test]
    fn other_pages_are_refused_but_links_are_not() {
        let access = Access::default();
        let from =
            |site, mode| status(&access, &[("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
        assert_eq!([from("same-origin", "cors"), from("none", "navigate"), from("cross-site", "navigate")], [None; 3]);
        assert_eq!([from("cross-site", "no-cors"), from("same-site", "cors")], [Some(403); 2]);
        let access = Access { hosts: vec!["pictures.example".to_owned()], ..Access::default() };
        let of = |origin| status(&access, &[("host", "192.168.0.7:8501"), ("origin", origin)]);
        assert_eq!([of("http://192.168.0.7:8501"), of("https://pictures.example")], [None; 2]);
        assert_eq!([of("http://192.168.0.7"), of("https://evil.example"), of("null")], [Some(403); 3]);
    }

    #[test]
    fn a_token_is_wanted_where_there_is_one() {
        let token = Token::new("a secret of some length");
        let cookie = format!("a=b; {}", token.cookie());
        let access = Access { token: Some(token), ..Access::default() };
        let with = |name, value: &str| status(&access, &[("host", "localhost"), (name, value)]);
        assert_eq!(with("authorization", "Bearer a secret of some length"), None);
        assert_eq!(with("cookie", &cookie), None);
        assert_eq!(with("authorization", "bearer a secret of some length"), None);
        for (name, value) in [("authorization", "Bearer a secret"), ("cookie", &cookie[..cookie.len() - 1])] {
            assert_eq!(with(name, value), Some(401), "{name}: {value}");
        }
    }
}
