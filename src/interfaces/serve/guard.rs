//! Who is answered: the right host name, our own pages, and those with the token; and what browsers are to refuse.

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
/// Open to all: it says no more than that the server is there.
pub const OPEN: &str = "/healthz";

/// Everything from here, nothing inline, and nobody may frame it.
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
    /// Names of this server beside `localhost` and addresses in numbers, which no other page can take.
    pub hosts: Vec<String>,
    pub token: Option<Token>,
    /// What addresses here begin with, where a proxy passes them on below one of its own: empty, or such as `/pictures`.
    pub base: String,
}

/// A secret, known by its digest: comparing digests takes the same time for all that are wrong.
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

    /// What browsers keep, a name and a value: it opens this server, and tells nothing of the secret. Servers on other
    /// ports, which browsers do not tell apart, have cookies of other names.
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
    // Never the address itself: it may hold a token, and nobody needs to know what was asked.
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
        // It may not have been read: nothing else can come on this connection.
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
            let why = "this server is not called so; if it should be, start it with --allow-host NAME";
            return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong-host", why).into_response());
        }
        if is_of_another_page(request.method(), headers) || !self.is_from_here(headers) {
            let why = "requests of other pages are not answered";
            return Some(Problem::new(StatusCode::FORBIDDEN, "other-page", why).into_response());
        }
        let token = self.token.as_ref()?;
        let path = request.uri().path();
        if path == OPEN || is_told(token, headers) {
            return None;
        }
        if (path == "/" || path == self.base) && asked_with(request, token) {
            // Later requests of the page bring the cookie, also those that follow a shared link (which is all that
            // `Lax` lets other pages do); the token leaves the address.
            let base = &self.base;
            let cookie = format!("{}; HttpOnly; SameSite=Lax; Path={base}/", token.cookie());
            let asked = request.uri().query().unwrap_or_default().split('&');
            let rest: Vec<&str> = asked.filter(|part| !part.starts_with("token=")).collect();
            let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
            let address = format!("{base}/{rest}");
            return Some(([(header::SET_COOKIE, cookie)], Redirect::to(&address)).into_response());
        }
        let why = "this server wants its token: open /?token=TOKEN, or send `Authorization: Bearer TOKEN`";
        let mut response = Problem::new(StatusCode::UNAUTHORIZED, "no-token", why).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    /// A page elsewhere can have its own name lead here (DNS rebinding), but it cannot have the browser ask by another.
    fn is_right_host(&self, request: &Request) -> bool {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let named = request.uri().authority().map(|authority| authority.as_str());
        let Ok(host) = host.to_str() else { return false };
        self.is_own_name(host) && named.is_none_or(|named| self.is_own_name(named))
    }

    /// Browsers name the page that asks wherever it could be another's (RFC 6454), also where they keep back the
    /// metadata because the connection is not safe.
    fn is_from_here(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Some((_, origin)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else { return false };
        // A proxy may ask by its own name for this server, and the page is then of one that it was told.
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

/// Browsers say where a request comes from (W3C Fetch Metadata); following a link to here is fine.
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
