//! `serve` gives the same answers as `query`, refuses wrong requests, and shows the results of new runs.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::Value;

use crate::fixture::{Project, wait_until};
use crate::pictures::{encoded, picture};

/// A running server, which stops at the end of the test.
struct Server {
    child: Child,
    address: String,
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Server {
    fn start(project: &Project, arguments: &str) -> Self {
        let mut command = project.command();
        command.args(["--quiet", "serve", "--port", "0"]).args(arguments.split_whitespace());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { child, address }
    }

    fn send(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address.split('/').next().unwrap()).unwrap();
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = [format!("{head}\r\n{length}Connection: close\r\n\r\n").as_bytes(), body].concat();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A server that refuses a request may not read its body.
        drop(stream.write_all(&request));
        let mut reply = Vec::new();
        drop(stream.read_to_end(&mut reply));
        let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("a reply") + 4;
        let head = String::from_utf8(reply[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: reply.split_off(end) }
    }

    fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost"), &[])
    }

    fn post(&self, path: &str, kind: &str, body: &[u8]) -> Reply {
        self.send(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}"), body)
    }

    fn stop(mut self) -> i32 {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn form(field: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!("--x\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"../p.png\"\r\n\r\n");
    [head.as_bytes(), bytes, b"\r\n--x--\r\n"].concat()
}

/// (id, distance, chance) of each result.
fn found(answer: &Value) -> Vec<(u64, f64, f64)> {
    let hit =
        |hit: &Value| (hit["id"].as_u64().unwrap(), hit["distance"].as_f64().unwrap(), hit["chance"].as_f64().unwrap());
    answer["results"].as_array().unwrap().iter().map(hit).collect()
}

fn queried(project: &Project, arguments: &str) -> Vec<(u64, f64, f64)> {
    found(&serde_json::from_str(&project.succeed(&format!("query {arguments} --json"))).unwrap())
}

#[test]
fn answers_are_those_of_query() {
    let project = Project::trained();
    let server = Server::start(&project, "");
    let own = [(0, ImageFormat::Png), (1, ImageFormat::Jpeg), (6, ImageFormat::WebP), (3, ImageFormat::Png)];
    let mut own: Vec<Vec<u8>> = own
        .into_iter()
        .map(|(variant, format)| {
            let picture = picture(variant, variant);
            let picture = if format == ImageFormat::WebP { picture.to_rgba8().into() } else { picture };
            encoded(&picture, format)
        })
        .collect();
    // A few megabytes that cannot be compressed.
    let noise = RgbImage::from_fn(1200, 900, |x, y| {
        let bits = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(x ^ y ^ 77);
        image::Rgb([bits as u8, (bits >> 8) as u8, (bits >> 16) as u8])
    });
    own.push(encoded(&noise.into(), ImageFormat::Png));
    assert!(own[4].len() > 2_500_000, "{}", own[4].len());
    let expected: Vec<_> = own
        .iter()
        .map(|bytes| {
            std::fs::write(project.path("own"), bytes).unwrap();
            queried(&project, "own -k 7")
        })
        .collect();
    // Many queries at once: each gets its own answer, whatever other pictures are embedded with it.
    std::thread::scope(|scope| {
        for turn in 0..20 {
            let (server, own, expected) = (&server, &own, &expected);
            scope.spawn(move || {
                let at = turn % own.len();
                let reply = if turn < 10 {
                    server.post("/api/search?k=7", "image/png", &own[at])
                } else {
                    server.post("/api/search?k=7", "multipart/form-data; boundary=x", &form("image", &own[at]))
                };
                assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
                assert_eq!(found(&reply.json()), expected[at]);
                assert!(reply.json()["results"][0]["same_class"].is_null(), "nobody knows the class of an upload");
            });
        }
    });

    let reply = server.get("/api/search?id=7&k=9").json();
    assert_eq!(found(&reply), queried(&project, "--id 7 -k 9"));
    let class = &reply["query"]["picture"]["label_name"];
    for hit in reply["results"].as_array().unwrap() {
        assert_eq!(hit["same_class"].as_bool().unwrap(), hit["label_name"] == *class);
        assert!((0.0..=1.0).contains(&hit["place"]["x"].as_f64().unwrap()));
    }
    // Filters: the nearest pictures of one class and one subset, and no others.
    let all = server.get("/api/search?id=7&k=99").json();
    let some = server.get("/api/search?id=7&k=99&label_name=cat&split=train").json();
    let fits = |hit: &&Value| hit["label_name"] == "cat" && hit["split"] == "train";
    let expected: Vec<u64> =
        all["results"].as_array().unwrap().iter().filter(fits).map(|hit| hit["id"].as_u64().unwrap()).collect();
    assert_eq!(found(&some).iter().map(|hit| hit.0).collect::<Vec<_>>(), expected);
    assert_eq!(expected.len(), 8);

    // Pictures, the list of them, the map and the report.
    let list = server.get("/api/gallery?label_name=dog&limit=4&offset=8").json();
    assert_eq!((list["total"].as_u64(), list["pictures"].as_array().unwrap().len()), (Some(10), 2));
    let first = &list["pictures"][0];
    let reply = server.get(first["image"].as_str().unwrap());
    let file = project.path("artifacts/prepare").join(first["path"].as_str().unwrap());
    assert!(reply.body == std::fs::read(file).unwrap() && reply.header("content-type") == Some("image/png"));
    let tag = reply.header("etag").unwrap();
    let again = format!("GET {} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}", first["image"].as_str().unwrap());
    assert_eq!(server.send(&again, &[]).status, 304);
    assert_eq!(server.get("/api/map").json()["points"].as_array().unwrap().len(), 20);
    assert!(server.get("/report").body == std::fs::read(project.path("reports/index.html")).unwrap());
    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    assert!(metrics.contains("similiai_requests_total{route=\"/api/search\",status=\"200\"} 23"), "{metrics}");
    assert!(metrics.contains("similiai_batch_pictures_sum 20"), "{metrics}");
}

#[test]
fn what_cannot_be_answered_is_a_problem_with_a_reason() {
    let project = Project::trained();
    let server = Server::start(&project, "--max-upload 100kB --max-megapixels 1 --allow-host pictures.example");
    let refused = |reply: Reply, status: u16, kind: &str, said: &str| {
        assert_eq!(reply.status, status, "{said}: {}", String::from_utf8_lossy(&reply.body));
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{said}");
        let problem = reply.json();
        assert_eq!(
            (problem["status"].as_u64(), &problem["type"]),
            (Some(status.into()), &format!("urn:similiai:{kind}").into())
        );
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}: {said}");
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"));
    };
    let post = |bytes: &[u8]| server.post("/api/search", "image/png", bytes);
    let whole = encoded(&picture(0, 0), ImageFormat::Png);
    let large = encoded(&DynamicImage::from(RgbImage::new(1100, 1000)), ImageFormat::Png);
    refused(post(b"no picture at all"), 415, "no-picture", "begins neither as PNG");
    refused(post(b""), 415, "no-picture", "the file is empty");
    refused(post(&whole[..whole.len() / 2]), 422, "broken-picture", "truncated");
    refused(post(&large), 413, "too-many-pixels", "1100 × 1000 pixels, more than the limit of 1 million");
    refused(post(&[0; 100_001]), 413, "too-many-bytes", "more than 100.0 kB");
    let form_of = |bytes: Vec<u8>| server.post("/api/search", "multipart/form-data; boundary=x", &bytes);
    refused(form_of(form("picture", &whole)), 400, "invalid", "no field called `image`");
    let two = [&form("image", &whole)[..form("image", &whole).len() - 7], &form("image", &whole)].concat();
    refused(form_of(two), 400, "invalid", "two fields called `image`");
    refused(form_of(b"--x".to_vec()), 400, "invalid", "");
    for (path, status, said) in [
        ("/api/search?id=100", 404, "ids go from 0 to 99"),
        ("/api/search?id=-1", 400, "id"),
        ("/api/search", 400, "id"),
        ("/api/search?id=1&k=0", 400, "from 1 to 100"),
        ("/api/search?id=1&kk=3", 400, "kk"),
        ("/api/search?id=1&label_name=fish", 404, "no class `fish`: plane"),
        ("/api/gallery?split=x", 404, "no split `x`: test, train"),
        ("/api/gallery?limit=201", 400, "from 1 to 200"),
        ("/api/images/../../../../etc/passwd", 404, ""),
        ("/api/images/..%2F..%2F..%2Fpipeline.yaml", 404, "is its id"),
        ("/api/images/100.png", 404, "no picture 100"),
        ("/elsewhere", 404, "/api/openapi.json"),
    ] {
        refused(server.get(path), status, if status == 404 { "missing" } else { "invalid" }, said);
    }
    let reply = server.send("DELETE /api/search?id=1 HTTP/1.1\r\nHost: localhost", &[]);
    assert_eq!(reply.header("allow"), Some("GET,HEAD,POST"));
    refused(reply, 405, "method", "openapi");
    let with = |header: &str| server.send(&format!("GET /api/about HTTP/1.1\r\n{header}"), &[]);
    refused(with("Host: evil.example"), 421, "wrong-host", "--allow-host");
    refused(with("X: y"), 421, "wrong-host", "--allow-host");
    refused(with("Host: localhost\r\nSec-Fetch-Site: cross-site"), 403, "other-page", "other pages");
    assert_eq!(with("Host: pictures.example:8080").status, 200);
    let elsewhere = with("Host: localhost\r\nOrigin: http://evil.example");
    assert!(elsewhere.header("access-control-allow-origin").is_none());
    refused(elsewhere, 403, "other-page", "other pages");
    // Errors are found before a large body is read, and the client receives them.
    let long = vec![0; 12_000_000];
    refused(server.post("/api/search?k=0", "image/png", &long), 400, "invalid", "from 1 to 100");
    refused(server.post("/api/search?label_name=fish", "image/png", &long), 404, "missing", "no class `fish`");
    refused(server.get("/api/images/%ff.png"), 404, "missing", "is its id");

    // A request that has started is still answered when the server stops.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!("POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", whole.len());
    stream.write_all(&[head.as_bytes(), &whole[..50]].concat()).unwrap();
    let metrics = || String::from_utf8(server.get("/metrics").body).unwrap();
    wait_until("the second connection", || metrics().contains("similiai_connections 2"));
    let status = std::thread::scope(|scope| {
        let ended = scope.spawn(|| server.stop());
        std::thread::sleep(Duration::from_millis(700));
        stream.write_all(&whole[50..]).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        ended.join().unwrap()
    });
    assert_eq!(status, 143);
}

#[test]
fn a_port_in_use_is_named_with_a_free_one() {
    let project = Project::trained();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listening.local_addr().unwrap();
    let outcome = project.similiai(&format!("serve --port {}", taken.port()));
    assert!(
        outcome.status == 2 && outcome.stderr.contains(&format!("cannot listen on {taken}: ")),
        "{}",
        outcome.stderr
    );
    let free: u16 = outcome.stderr.trim().rsplit_once("add --port ").unwrap().1.parse().unwrap();
    assert!((taken.port() + 1..=taken.port() + 100).contains(&free), "{free}");
}

#[test]
fn others_need_the_token() {
    let project = Project::trained();
    for (arguments, said) in [
        ("serve --host 0.0.0.0 --port 0", "--token"),
        ("serve --host 0.0.0.0 --port 0 --token short", "16 characters"),
        ("serve --port 0 --insecure --token 0123456789abcdef", "cannot be used with"),
        ("serve --host no.such.name.invalid", "neither an address nor a name"),
        ("serve --of train", "does not provide embeddings"),
        ("serve --of nothing", "no stage instance `nothing`"),
        ("serve --port 0 --token 0123456789abcdef\u{e9}", "ASCII"),
        ("serve --port 0 --allow-host pictures.example:80", "not a plain host name"),
        (
            "serve --token short --base-path q --max-upload 0",
            "\n  --base-path q is not a path such as /pictures\n  --max-upload",
        ),
    ] {
        let outcome = project.similiai(arguments);
        assert!(outcome.status == 2 && outcome.stderr.contains(said), "{arguments}: {}", outcome.stderr);
    }
    let server = Server::start(&project, "--token 0123456789abcdef");
    let with =
        |path: &str, header: &str| server.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}"), &[]);
    let refused = server.get("/");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(with("/api/about", "Authorization: Bearer 0123456789abcdeX").status, 401);
    assert_eq!(with("/api/about", "Authorization: Bearer 0123456789abcdef").status, 200);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/healthz").json(), serde_json::json!({"status": "ok"}));
    let welcome = server.get("/?id=3&token=0123456789abcdef&k=7");
    assert_eq!((welcome.status, welcome.header("location")), (303, Some("/?id=3&k=7")));
    let cookie = welcome.header("set-cookie").unwrap().split(';').next().unwrap();
    assert!(!cookie.contains("0123456789abcdef"), "{cookie}");
    assert_eq!(with("/api/about", &format!("Cookie: {cookie}")).status, 200);
}

#[test]
fn new_results_are_shown_without_a_restart_and_never_mixed() {
    let project = Project::new();
    let server = Server::start(&project, "");
    let waiting = server.get("/api/search?id=0");
    assert_eq!((waiting.status, waiting.header("retry-after")), (503, Some("1")));
    assert!(waiting.json()["detail"].as_str().unwrap().contains("`similiai run embed`"), "{}", waiting.json());
    assert_eq!(server.get("/").status, 200, "the page itself is there, and says so");

    let pair = |reply: &Value| (reply["model"].to_string(), reply["gallery"].to_string());
    let ask = || server.get("/api/search?id=3&k=4");
    let ready = || {
        let reply = ask();
        assert_eq!(reply.status, 200, "{}", reply.json());
        reply.json()
    };
    project.succeed("run all");
    for _ in 0..200 {
        if ask().status == 200 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let first = ready();
    let expected = queried(&project, "--id 3 -k 4");
    assert_eq!(found(&first), expected);

    // Another training, while a client sends queries.
    project.edit_manifest("seed: 7", "seed: 8");
    let mut run = project.start("run all");
    let (mut pairs, mut after) = (BTreeSet::from([pair(&first)]), 0);
    wait_until("the end of the training", || {
        pairs.insert(pair(&ready()));
        if run.try_wait().unwrap().is_some() {
            after += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        after == 20
    });
    assert!(run.wait().unwrap().success());
    let last = ready();
    assert_eq!(found(&last), queried(&project, "--id 3 -k 4"));
    assert_eq!(pairs, BTreeSet::from([pair(&first), pair(&last)]), "two pairs, and no mixture of them");
    assert_ne!(pair(&first).0, pair(&last).0);
    assert_ne!(pair(&first).1, pair(&last).1);

    // If a picture was modified, the stored one is shown.
    let image = first["results"][0]["image"].as_str().unwrap();
    let before = server.get(image).body;
    let file = project.path("artifacts/prepare").join(first["results"][0]["path"].as_str().unwrap());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, b"another").unwrap();
    assert_eq!(server.get(image).body, before);
}

#[test]
fn a_decompression_bomb_fails_alone() {
    let project = Project::trained();
    let server = Server::start(&project, "");
    for groups in [16_000, 3] {
        let reply = server.post("/api/search", "image/webp", &crate::bomb::webp(groups));
        assert_eq!(reply.status, if groups == 3 { 200 } else { 422 }, "{}", String::from_utf8_lossy(&reply.body));
        if groups > 3 {
            assert!(reply.json()["detail"].as_str().unwrap().contains("the decoder needed more than"));
        }
    }
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.stop(), 143);
}

#[test]
fn clients_may_close_their_side_after_a_request() {
    let project = Project::trained();
    let server = Server::start(&project, "");
    for _ in 0..5 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(b"GET /api/search?id=3 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
}

#[test]
fn below_a_prefix_of_a_proxy() {
    let project = Project::trained();
    let server = Server::start(&project, "--base-path /pictures/ --token 0123456789abcdef");
    assert!(server.address.ends_with("/pictures"), "{}", server.address);
    let ask = |path: &str| {
        server.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer 0123456789abcdef"), &[])
    };
    // The proxy may pass the prefix on or remove it.
    for prefix in ["/pictures", ""] {
        let answer = ask(&format!("{prefix}/api/search?id=3")).json();
        let image = answer["results"][0]["image"].as_str().unwrap().to_owned();
        assert!(image.starts_with("/pictures/api/images/"), "{image}");
        assert_eq!(ask(&image).status, 200);
        let page = ask(&format!("{prefix}/"));
        let text = String::from_utf8(page.body).unwrap();
        assert!(page.status == 200 && !text.contains("=\"/"), "{text}");
    }
    let moved = ask("/pictures?id=3");
    assert_eq!((moved.status, moved.header("location")), (303, Some("/pictures/?id=3")));
    let entered = server.get("/pictures/?token=0123456789abcdef&id=3");
    assert_eq!((entered.status, entered.header("location")), (303, Some("/pictures/?id=3")));
    assert!(entered.header("set-cookie").unwrap().ends_with("Path=/pictures/"));
    assert_eq!(ask("/pictures/api/openapi.json").json()["servers"][0]["url"], "/pictures");
    assert_eq!(ask("/picturesque").status, 404);
    // With a prefix, the guard still refuses other hosts.
    for request in [
        "GET /pictures HTTP/1.1\r\nHost: evil.example",
        "GET http://evil.example/pictures/ HTTP/1.1\r\nHost: localhost",
    ] {
        let answer = server.send(request, &[]);
        assert_eq!((answer.status, answer.header("x-content-type-options")), (421, Some("nosniff")), "{request}");
    }
    assert_eq!(server.get("/pictures?token=0123456789abcdef").header("location"), Some("/pictures/"));
    let project = Project::new();
    for wrong in ["pictures", "//x", "/a b", "/x?y", "/api"] {
        let mut command = project.command();
        let status = command.args(["serve", "--port", "0", "--base-path", wrong]).status().unwrap();
        assert_eq!(status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn forms_and_validators_as_browsers_and_proxies_send_them() {
    let project = Project::trained();
    let server = Server::start(&project, "");
    let png = encoded(&picture(3, 1), ImageFormat::Png);
    let other = b"--x\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\nsecret\r\n";
    let reply =
        server.post("/api/search", "multipart/form-data; boundary=x", &[&other[..], &form("image", &png)].concat());
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let tag = server.get("/api/images/3.png").header("etag").unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", W/{tag}"), "*".to_owned()] {
        let head = format!("GET /api/images/3.png HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {known}");
        assert_eq!(server.send(&head, &[]).status, 304, "{known}");
    }
}
